# How many requests a minute one caller may make of the management API.
#
# Input: {"authenticated": boolean, "user": {"role": string}, "configured": number}
# `configured` is what the installation's settings say for this kind of caller; without it the figures below hold.
# A caller who is not signed in is counted by address, one who is by principal.
package sark.rate_limiting

import rego.v1

default limit := 100

limit := input.configured if {
	is_number(input.configured)
	input.configured > 0
} else := 1000 if input.authenticated == true

default counted_by := "address"

counted_by := "principal" if input.authenticated == true
