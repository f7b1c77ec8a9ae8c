"""Every route and method that destroys or widens is known here with its guard, and each is shown to carry it."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import bailiwick
from bailiwick.assurance.operations import GatewayClose, GatewayOpen, KeyRotation, PolicyRollback, UserUnlock
from bailiwick.assurance.overrides import DO, REVIEW, Overrides
from bailiwick.authority.emergency import EmergencyRotation
from bailiwick.evidence.archive.lives import RELEASE
from bailiwick.evidence.archive.purge import PURGE
from bailiwick.identity.users import Users
from bailiwick.kernel.permissions import STEP_UP, Permission
from bailiwick.policy.policies import Policies

ROOT = Path(bailiwick.__file__).parent

# Routes of what an override does, or that end evidence: by what each is guarded when it is called past the overrides.
# "step-up": narrowing, so one person who proved himself just now; "two": the two-person rule itself; "refused": never
# done by the route, which says how two persons do it.
PRIVILEGED = {
    ("authority/api.py", "rotate"): "step-up",
    ("assurance/overrides_api.py", "unlock_user"): "refused",
    ("policy/api.py", "rollback"): "known-good alone, else two",
    ("policy/api.py", "activate"): "two, held by the service",
    ("policy/api.py", "deactivate"): "two, held by the service",
    ("policy/api.py", "mark"): "two, held by the service",
    ("policy/api.py", "upload"): "two, held by the service",
    ("identity/api.py", "change_user"): "two, held by the service",
    ("assurance/overrides_api.py", "break_glass"): "step-up",
    ("assurance/overrides_api.py", "approve"): "step-up",
    ("assurance/overrides_api.py", "review"): "step-up",
    ("assurance/waivers_api.py", "approve"): "step-up",
    ("evidence/archive/api.py", "purge"): "two",
}
# who calls the functions that do it, anywhere in the program
CALLERS = {
    "_switch.open": {"assurance/operations.py"},
    "_switch.close": {"assurance/operations.py"},
    "_quorum.execute": {
        "assurance/books.py", "assurance/checkpoints/golive.py", "assurance/checkpoints/plans.py",
        "assurance/overrides.py", "assurance/waivers.py", "evidence/archive/lives.py", "evidence/archive/purge.py",
        "handover/environments/states.py",
    },
    "_agreements.given": {"policy/policies.py", "policy/known_good.py"},
    "_policies.roll_back": {"assurance/operations.py", "handover/incidents/operations.py"},
    "_quorum.end": {"assurance/overrides.py", "policy/agreement.py"},
    "_users.unlock": {"assurance/operations.py"},
}  # fmt: skip


def _calls(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Attribute):
                found.add(f"{owner.attr}.{node.func.attr}")
    return found


def test_nobody_but_the_guards_calls_what_is_guarded() -> None:
    callers: dict[str, set[str]] = {name: set() for name in CALLERS}
    for path in ROOT.rglob("*.py"):
        for name in _calls(path) & callers.keys():
            callers[name].add(path.relative_to(ROOT).as_posix())
    assert callers == CALLERS


def test_every_operation_hands_its_claim_into_the_transaction_that_does_it() -> None:
    for operation in (PolicyRollback, KeyRotation, UserUnlock):
        assert "within=claim" in inspect.getsource(operation.perform), operation
    for direct in (GatewayClose, GatewayOpen):
        lines = inspect.getsource(direct.perform).splitlines()
        begin = next(number for number, line in enumerate(lines) if "database.begin()" in line)
        assert lines[begin + 1].strip() == "await claim(tx)", direct
    for method in (Users.unlock, EmergencyRotation.rotate, Policies.roll_back):
        assert "within" in inspect.signature(method).parameters
    for method in (Users.unlock, Policies.roll_back):
        assert inspect.signature(method).parameters["within"].default is inspect.Parameter.empty
    source = inspect.getsource(Overrides._execute)
    assert source.index("self._quorum.execute") < source.index("codes.OVERRIDE_DONE")


def test_what_two_persons_decide_takes_a_person_who_proved_himself_just_now() -> None:
    for action in (DO, REVIEW, PURGE):
        assert action.permission in STEP_UP, action
    assert {Permission.APPROVALS_VOTE, Permission.WAIVERS_APPROVE, Permission.OVERRIDES_BREAK_GLASS} <= STEP_UP
    assert RELEASE.needed >= 1


@pytest.mark.parametrize(("file", "function"), sorted(PRIVILEGED))
def test_each_privileged_route_carries_its_guard(file: str, function: str) -> None:
    guard = PRIVILEGED[file, function]
    (route,) = [
        node for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.AsyncFunctionDef) and node.name == function
        and any(argument.arg == "caller" and argument.annotation for argument in node.args.args)
    ]  # fmt: skip
    (caller,) = [argument.annotation for argument in route.args.args if argument.arg == "caller"]
    assert caller is not None
    module = import_module("bailiwick." + file.removesuffix(".py").replace("/", "."))
    annotation = eval(ast.unparse(caller), vars(module))
    permission = annotation.__metadata__[0].dependency.permission
    if guard == "refused":
        called = {node.func.attr for node in ast.walk(route) if isinstance(node, ast.Call)
                  and isinstance(node.func, ast.Attribute)}  # fmt: skip
        assert called == {"post", "refuse_alone"} and permission in STEP_UP, called
    elif guard in ("step-up", "two"):
        assert permission in STEP_UP, (permission, guard)
    elif guard.startswith("two, "):
        body = ast.unparse(route)
        assert "_told(" in body or "status_code = 202" in body or "_waits(" in body
    else:
        assert permission == Permission.POLICIES_ROLLBACK
        assert "known_good_only=narrow" in ast.unparse(route)
