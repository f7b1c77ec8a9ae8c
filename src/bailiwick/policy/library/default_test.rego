package bailiwick.authz_test

import data.bailiwick.authz
import rego.v1

payments := {
	"stage": "request",
	"user": {"id": "u-1", "role": "viewer", "roles": ["viewer"]},
	"subject": {"type": "user", "id": "u-1", "roles": ["viewer", "clerk"]},
	"client": {"id": "c-1", "name": "agent", "grants": {"payments": ["payments:read", "payments:write"]}},
	"server": {"name": "payments", "tags": {}},
	"operation": {"method": "GET", "path": "/pay/7", "template": "/pay/{id}", "scope": "payments:read"},
	"scope": ["payments:read"],
}

minting := object.union(object.remove(payments, ["operation"]), {"stage": "mint"})

test_a_granted_scope_is_minted if {
	authz.allow with input as minting
	count(authz.deny) == 0 with input as minting
}

test_an_ungranted_scope_is_not_minted if {
	asked := object.union(minting, {"scope": ["payments:read", "payments:admin"]})
	not authz.allow with input as asked
	"grant_exceeded" in authz.deny with input as asked
}

test_nothing_is_minted_for_no_scope if {
	not authz.allow with input as object.union(minting, {"scope": []})
}

test_nothing_is_minted_for_an_unknown_server if {
	asked := object.union(minting, {"server": {"name": "ledger"}})
	not authz.allow with input as asked
	"grant_exceeded" in authz.deny with input as asked
}

test_a_request_within_the_mandate_passes if {
	authz.allow with input as payments
	count(authz.deny) == 0 with input as payments
}

test_a_request_beyond_the_mandate_is_denied if {
	asked := object.union(payments, {"operation": {"scope": "payments:write"}})
	not authz.allow with input as asked
	"insufficient_scope" in authz.deny with input as asked
}

test_a_withdrawn_grant_ends_the_mandate if {
	asked := object.union(object.remove(payments, ["client"]), {"client": {"grants": {"payments": ["payments:write"]}}})
	not authz.allow with input as asked
	"grant_exceeded" in authz.deny with input as asked
}

test_an_operation_without_scope_is_denied if {
	asked := object.remove(payments, ["operation"])
	not authz.allow with input as asked
	count(authz.deny) > 0 with input as asked
}

test_a_server_that_lists_roles_asks_for_one if {
	authz.allow with input as object.union(payments, {"server": {"roles": ["clerk"]}})
	asked := object.union(payments, {"server": {"roles": ["treasurer"]}})
	not authz.allow with input as asked
	"role_not_listed" in authz.deny with input as asked
}

test_an_administrator_needs_a_grant_too if {
	admin := object.union(payments, {"user": {"role": "admin"}, "client": {"grants": {"payments": []}}})
	not authz.allow with input as admin
	"grant_exceeded" in authz.deny with input as admin
}

test_evaluate_is_left_to_others if {
	not authz.allow with input as {"stage": "evaluate", "user": {"role": "admin"}}
	count(authz.deny) == 0 with input as {"stage": "evaluate", "user": {"role": "admin"}}
}
