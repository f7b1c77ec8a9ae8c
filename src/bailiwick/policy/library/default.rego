# What every installation starts from: an application may do on a server what it was granted there, and no more.
#
# At `mint` the scopes asked for are needed; at `request` the scope of the operation is, and the mandate must carry it.
# Where the server lists roles, the one on whose behalf the application acts must hold one of them.
# At `evaluate` this package has no opinion; other packages of the set decide.
package bailiwick.authz

import rego.v1

default allow := false

allow if {
	count(needed) > 0
	granted_all
	carried
	role_listed
}

# A denial outweighs any other package's allow, so that an administrator's role does not widen a mandate.
deny contains "insufficient_scope" if {
	gated
	not carried
}

deny contains "grant_exceeded" if {
	gated
	not granted_all
}

deny contains "role_not_listed" if {
	gated
	not role_listed
}

gated if input.stage == "mint"

gated if input.stage == "request"

needed contains scope if {
	input.stage == "mint"
	some scope in input.scope
}

needed contains input.operation.scope if input.stage == "request"

granted_all if {
	granted := input.client.grants[input.server.name]
	every scope in needed {
		scope in granted
	}
}

# An application asks for its mandate; only at the request can it fall short of the operation.
carried if input.stage == "mint"

carried if input.operation.scope in input.scope

role_listed if not lists_roles

role_listed if {
	some role in input.subject.roles
	role in input.server.roles
}

# Anything but an absent or empty list is a list, so that a malformed one denies.
lists_roles if {
	roles := input.server.roles
	roles != []
}
