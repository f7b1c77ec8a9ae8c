package sark.authz_test

import data.sark.authz
import rego.v1

test_an_administrator_may_do_anything if {
	authz.allow with input as {"user": {"role": "admin"}, "action": "delete", "resource": "servers"}
}

test_a_viewer_may_read if {
	authz.allow with input as {"user": {"role": "viewer"}, "action": "read", "resource": "servers"}
}

test_a_viewer_may_not_write if {
	not authz.allow with input as {"user": {"role": "viewer"}, "action": "write", "resource": "servers"}
}

test_others_may_not_read if {
	not authz.allow with input as {"user": {"role": "operator"}, "action": "read", "resource": "servers"}
}

test_owners_of_a_plane_are_no_administrators if {
	every role in ["ops_owner", "security_owner", "finance_owner", "product_owner"] {
		not authz.allow with input as {"user": {"role": role}, "action": "delete", "resource": "servers"}
	}
}
