"""The reasons for which a policy is refused, or fails at run time, with what each means to its author."""

from __future__ import annotations

from collections.abc import Mapping

REASONS: Mapping[str, str] = {
    "policy_syntax_error": "The policy is not valid Rego, in v0 or in v1.",
    "policy_too_deep": "Literals, brackets or expressions nest deeper than can be parsed in bounded time.",
    "policy_too_large": "The files or the data are larger than a policy set may be.",
    "policy_forbidden_builtin": "The policy calls a function that has side effects or differs from run to run.",
    "policy_unknown_builtin": "The policy calls a function that the engine does not have.",
    "policy_unbounded": "The policy can be made to use memory or time without bound by what a request carries.",
    "policy_recursion": "A rule or function depends on itself.",
    "policy_data_conflict": "The data has a value where a rule or package stands; one would hide the other.",
    "policy_reserved_package": "The package name is reserved.",
    "policy_empty": "The policy has no rule.",
    "policy_result_type": "`allow` must be true, false or undefined; `deny` a boolean or a collection of strings.",
    "policy_unsupported": "The engine would get this construct wrong; the message says how to write it instead.",
    "policy_conflict": "Two rules give one name, function or key different values.",
    "policy_runtime_error": "Evaluating the policy raised an error.",
    "policy_instruction_limit": "Evaluating the policy took more instructions than a decision may.",
    "policy_test_failed": "A test of the policy does not hold.",
    "policy_timeout": "The policy did not finish within the time an admission may take.",
    "policy_out_of_memory": "The policy needed more memory than an admission may use.",
    "policy_engine_crashed": "The policy crashed the engine.",
}
