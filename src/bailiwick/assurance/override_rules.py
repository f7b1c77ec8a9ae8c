"""What an override takes, as versioned documents: which operation, how much of it, where, and who must agree.

A rule can only be stricter than the constants here: one approval beside who asks, by another person, within a day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from pydantic import Field, StringConstraints, model_validator
from typing_extensions import Annotated  # noqa: UP035

from bailiwick.assurance.book import Book, Kind
from bailiwick.kernel.fields import Body, Line, Name
from bailiwick.kernel.quorum import Terms

LONGEST = timedelta(hours=24)
RELATED_FOR = timedelta(hours=24)
"""How long an account that another one made, raised or could enter counts as that other one's."""

REVIEW_WITHIN = timedelta(hours=24)
MOST_AN_HOUR = 20

Class = Literal["narrowing", "widening", "destroying", "finance"]
Operation = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9.-]{0,79}(\.\*)?$|^\*$", max_length=82)]
Function = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?$")]
Address = Annotated[str, StringConstraints(pattern=r"^https?://[^\s\x00-\x20]{1,500}$", max_length=510)]


class Rule(Body):
    """For an operation (``policy.rollback``, ``external.*``, ``*``): in which environments, from which amount or blast
    radius on, how many approve, who may, and how long a request waits."""

    operation: Operation
    environments: list[Name] = Field(default_factory=list, max_length=20, description="empty: all")
    from_amount: int = Field(0, ge=0, le=2**53)
    approvals: int = Field(1, ge=1, le=5)
    roles: list[Name] = Field(default_factory=list, max_length=10, description="who approves; empty: who may")
    other_role: bool = Field(False, description="nobody with the role of who asks")
    ttl_minutes: int = Field(240, ge=5, le=1440)
    related_hours: int = Field(24, ge=24, le=24 * 90)

    def terms(self) -> Terms:
        """What the two-person rule is asked for."""
        return Terms(
            needed=self.approvals,
            life=min(timedelta(minutes=self.ttl_minutes), LONGEST),
            roles=tuple(self.roles),
            other_role=self.other_role,
            window=max(timedelta(hours=self.related_hours), RELATED_FOR),
        )


class Argument(Body):
    """One argument of an external operation."""

    type: Literal["text", "integer"]
    most: int = Field(200, ge=1, le=2**53, description="longest text, or largest number")


class Webhook(Body):
    """Where a signed request goes. ``credential``: a stored bearer credential whose value is the HMAC-SHA256 key.
    ``version_url``: answers ``{"version": …}`` of the target, with ``{target}`` in its place."""

    url: Address
    credential: Name
    version_url: Address | None = None


class Procedure(Body):
    """A function ``name(key text, arguments jsonb) returns jsonb``. ``credential``: a stored bearer credential whose
    value is the connection string. ``version_function``: ``name(target text) returns text``."""

    credential: Name
    function: Function
    version_function: Function | None = None


class External(Body):
    """An operation of another system."""

    title: Line
    class_: Literal["widening", "destroying", "finance"] = Field("finance", alias="class")
    arguments: dict[Name, Argument] = Field(max_length=30)
    target: Name = Field(description="the argument that names what is changed")
    amount: Name | None = Field(None, description="the argument that says how much")
    webhook: Webhook | None = None
    procedure: Procedure | None = None

    @model_validator(mode="after")
    def _whole(self) -> External:
        if (self.webhook is None) == (self.procedure is None):
            raise ValueError("an external operation has a webhook or a procedure")
        if self.target not in self.arguments:
            raise ValueError("target names an argument")
        if self.amount is not None and (
            self.amount not in self.arguments or self.arguments[self.amount].type != "integer"
        ):
            raise ValueError("amount names an argument that is an integer")
        return self


def _check(book: Book) -> Iterable[str]:
    roles = {"admin", "operator", "auditor", "viewer", "ops_owner", "security_owner", "finance_owner", "product_owner"}
    for name, rule in book.of(RULE).items():
        if unknown := set(rule.roles) - roles:
            yield f"OverrideRule {name}: there is no role {', '.join(sorted(unknown))}"


RULE = Kind("OverrideRule", Rule, check=_check, two_persons=lambda before, after: True)
EXTERNAL = Kind("ExternalOperation", External, two_persons=lambda before, after: True)
KINDS = (RULE, EXTERNAL)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The rule that holds, by name and version."""

    name: str
    version: int
    rule: Rule


def matches(rule: Rule, operation: str, environment: str, amount: int) -> bool:
    """Whether a rule speaks of the operation at all."""
    named = rule.operation in ("*", operation) or (
        rule.operation.endswith(".*") and operation.startswith(rule.operation[:-1])
    )
    return named and (not rule.environments or environment in rule.environments) and amount >= rule.from_amount


def strictness(rule: Rule) -> tuple[int, int, bool, int]:
    """Sorts rules: more approvals, then fewer roles, then other roles only, then a shorter life."""
    return rule.approvals, -(len(rule.roles) or 99), rule.other_role, -rule.ttl_minutes


def choose(book: Book, operation: str, environment: str, amount: int) -> Chosen | None:
    """The strictest of the rules for the operation that fit; ``*`` only where nothing names the operation or its kind.

    None where no rule allows it.
    """
    fitting = {name: rule for name, rule in book.of(RULE).items() if matches(rule, operation, environment, amount)}
    named = {name: rule for name, rule in fitting.items() if rule.operation != "*"}
    candidates: Mapping[str, Rule] = named or fitting
    if not candidates:
        return None
    name = max(candidates, key=lambda each: (strictness(candidates[each]), each))
    return Chosen(name, book.documents["OverrideRule", name].version, candidates[name])
