"""Throws random input at the parsers that strangers reach, for a while each: SAML, LDAP filters, SCIM filters, cookies.

What is thrown, and what must hold, is what the tests say (hypothesis); here they get other bytes for longer. What
breaks one is kept in hypothesis' database, so that the test itself fails by it from then on.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent.parent
TARGETS = {
    "saml": (
        "identity.test_saml_attacks:test_what_is_accepted_of_a_changed_response_says_the_same",
        "identity.test_saml_attacks:test_what_is_accepted_of_a_changed_response_signed_twice_says_the_same",
        "identity.test_saml_attacks:test_anything_at_all_is_refused_and_breaks_nothing",
    ),
    "ldap-filter": (
        "identity.test_ldap_protocol:test_any_text_is_a_filter_or_is_refused",
        "identity.test_ldap_protocol:test_whatever_is_typed_is_one_value_of_one_comparison",
    ),
    "scim-filter": (
        "identity.test_scim_filters:test_any_text_is_a_filter_or_is_refused",
        "identity.test_scim_filters:test_what_is_written_is_read_back",
        "identity.test_scim_filters:test_the_statement_holds_nothing_of_a_value",
    ),
    "cookies": (
        "kernel.test_cookies:test_no_header_is_more_than_refused",
        "kernel.test_cookies:test_ours_is_found_among_any_others",
        "kernel.test_cookies:test_of_two_none_is_taken",
    ),
}
_MOST_BYTES = 4096


def hook(name: str) -> Callable[[bytes], object]:
    """What runs a test by bytes of our choosing; it answers None where they make no input."""
    module, _, test = name.partition(":")
    folder, _, file = module.partition(".")
    sys.path.insert(0, str(ROOT / "tests" / folder))
    found: Callable[[bytes], object] = getattr(import_module(file), test).hypothesis.fuzz_one_input
    return found


def fuzz(target: str, seconds: float, seed: int) -> bool:
    """Throw at every test of ``target`` in turn; whether all held."""
    chance, hooks = random.Random(f"{seed} {target}"), [(name, hook(name)) for name in TARGETS[target]]
    ends, thrown, taken = time.monotonic() + seconds, 0, 0
    while time.monotonic() < ends:
        name, run = hooks[thrown % len(hooks)]
        data = chance.randbytes(chance.randrange(1, _MOST_BYTES))
        thrown += 1
        try:
            taken += run(data) is not None
        except Exception:  # noqa: BLE001 - whatever it is, it is told
            traceback.print_exc()
            print(f"FAIL  {target}: {name} by seed {seed}, input {thrown}: {data.hex()[:400]}")
            return False
    print(f"pass  {target}: {taken} inputs of {thrown} tries in {seconds:g} s, seed {seed}", flush=True)
    return taken > 0


def main() -> int:
    """The exit code: 0 where everything held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="which parsers; all without")
    parser.add_argument("--seconds", type=float, default=60, help="for each of them")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    held = [fuzz(target, given.seconds, given.seed) for target in given.targets or TARGETS]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
