package sark.rate_limiting_test

import data.sark.rate_limiting
import rego.v1

test_a_stranger_has_a_hundred if {
	rate_limiting.limit == 100 with input as {"authenticated": false, "route": "/api/v1/servers"}
	rate_limiting.counted_by == "address" with input as {"authenticated": false}
}

test_who_is_signed_in_has_a_thousand if {
	rate_limiting.limit == 1000 with input as {"authenticated": true, "user": {"role": "viewer"}}
	rate_limiting.counted_by == "principal" with input as {"authenticated": true}
}

test_only_true_is_signed_in if {
	rate_limiting.limit == 100 with input as {"authenticated": "true"}
	rate_limiting.limit == 100 with input as {}
}

test_the_settings_say_otherwise if {
	rate_limiting.limit == 7 with input as {"authenticated": true, "configured": 7}
	rate_limiting.limit == 7 with input as {"configured": 7}
	rate_limiting.limit == 1000 with input as {"authenticated": true, "configured": 0}
	rate_limiting.limit == 100 with input as {"configured": "many"}
}
