"""The filter grammar: bounded, never a fault, and SQL that holds nothing of what a client wrote."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bailiwick.identity.scim.errors import ScimError
from bailiwick.identity.scim.filters import (
    MAX_DEPTH,
    MAX_LENGTH,
    MAX_TERMS,
    Attribute,
    Both,
    Comparison,
    Filter,
    Not,
    Of,
    parse_filter,
    parse_path,
)
from bailiwick.identity.scim.patch import patched_group, patched_user, steps
from bailiwick.identity.scim.schemas import GROUP_URN, USER_URN
from bailiwick.identity.scim.sql import condition
from bailiwick.identity.scim.users import COLUMNS

URNS = frozenset((USER_URN.lower(),))


def test_and_binds_tighter_than_or_and_brackets_tighter_than_both() -> None:
    found = parse_filter('a pr or b eq 1 and not (c lt -2.5) or d[e eq "x" and f eq true]')
    assert found == Both(
        Both(
            Comparison(Attribute("", "a"), "pr"),
            Both(
                Comparison(Attribute("", "b"), "eq", 1), Not(Comparison(Attribute("", "c"), "lt", -2.5)), either=False
            ),
            either=True,
        ),
        Of(
            Attribute("", "d"),
            Both(Comparison(Attribute("", "e"), "eq", "x"), Comparison(Attribute("", "f"), "eq", True), either=False),
        ),
        either=True,
    )


def test_names_are_of_any_letter_case_and_may_have_their_schema() -> None:
    found = parse_filter(f'{USER_URN}:Name.FamilyName EQ "O\'Malley \\"x\\" \\u00e9"')
    assert found == Comparison(Attribute(USER_URN.lower(), "name", "familyname"), "eq", 'O\'Malley "x" é')


def test_paths() -> None:
    assert parse_path("name.givenName").sub == "givenname"
    found = parse_path('emails[type eq "work"].value')
    assert (found.attribute, found.where, found.sub) == (
        Attribute("", "emails"), Comparison(Attribute("", "type"), "eq", "work"), "value",
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", " ", "a", "a eq", 'a eq "', "a eq b", "a eq 01", 'a eq "\\q"', 'a eq "\\u0000"', 'a eq "\\ud800"', "(a pr",
     "a pr)", "a pr b", "a pr and", "and a pr", "not a pr", "a[b pr", "a[]", "1 eq 1", 'a eq "x" "y"', "a..b pr",
     "a.b.c pr", "a. pr", "eq eq eq eq", "a xx 1", "a eq 1e5", 'a\x00 eq "x"', "a eq 12345678901234567890"],
)  # fmt: skip
def test_what_is_no_filter_is_told_so(text: str) -> None:
    with pytest.raises(ScimError) as raised:
        parse_filter(text)
    assert raised.value.scim_type == "invalidFilter" and raised.value.status == 400


def test_length_depth_and_terms_are_bounded() -> None:
    parse_filter("(" * MAX_DEPTH + "a pr" + ")" * MAX_DEPTH)
    parse_filter(" or ".join(["a pr"] * MAX_TERMS))
    for text in (
        "(" * (MAX_DEPTH + 1) + "a pr" + ")" * (MAX_DEPTH + 1),
        "a[" * (MAX_DEPTH + 2) + "b pr" + "]" * (MAX_DEPTH + 2),
        "not (" * (MAX_DEPTH + 1) + "a pr" + ")" * (MAX_DEPTH + 1),
        " or ".join(["a pr"] * (MAX_TERMS + 1)),
        'a eq "' + "x" * MAX_LENGTH + '"',
    ):
        with pytest.raises(ScimError):
            parse_filter(text)


# ---------------------------------------------------------------------- fuzzed

_words = st.sampled_from(
    ["userName", "emails", "emails.value", "active", "meta.created", "title", "groups", "eq", "ne", "co", "sw", "pr",
     "and", "or", "not", "(", ")", "[", "]", '"x"', '"', "true", "null", "1", "-", ".", "urn:a:2.0:User:userName", "'",
     ";", "--", ":f0", "%", "\\", "{}", "{0}", "é", "\x00"]
)  # fmt: skip
texts = st.text(max_size=60) | st.lists(_words, max_size=25).map(" ".join) | st.lists(_words, max_size=25).map("".join)
values = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)


@given(texts)
@settings(max_examples=500)
def test_any_text_is_a_filter_or_is_refused(text: str) -> None:
    for parse in (parse_filter, parse_path):
        try:
            parse(text)
        except ScimError as error:
            assert error.status == 400


def _written(found: Filter) -> str:
    import json

    match found:
        case Both(left, right, either):
            return f"({_written(left)} {'or' if either else 'and'} {_written(right)})"
        case Not(inner):
            return f"not ({_written(inner)})"
        case Of(attribute, inner):
            return f"{attribute.dotted}[{_written(inner)}]"
    assert isinstance(found, Comparison)
    return f"{found.attribute.dotted} {found.operator}" + (
        "" if found.operator == "pr" else f" {json.dumps(found.value)}"
    )


comparisons = st.builds(
    Comparison,
    st.sampled_from([Attribute("", "username"), Attribute("", "emails", "value"), Attribute("", "title")]),
    st.sampled_from(["eq", "ne", "co", "sw", "ew", "gt", "ge", "lt", "le"]),
    values,
)
filters = st.recursive(
    comparisons,
    lambda inner: st.builds(Both, inner, inner, st.booleans()) | st.builds(Not, inner),
    max_leaves=12,
)


@given(filters)
def test_what_is_written_is_read_back(found: Filter) -> None:
    try:
        assert parse_filter(_written(found)) == found
    except ScimError as error:
        assert "deeper" in error.detail or "longer" in error.detail


@given(filters)
def test_the_statement_holds_nothing_of_a_value(found: Filter) -> None:
    sql, bound = condition(found, COLUMNS, URNS)
    neutral, _ = condition(_emptied(found), COLUMNS, URNS)
    assert sql == neutral
    assert all(isinstance(value, str) for value in bound.values())


def _emptied(found: Filter) -> Filter:
    match found:
        case Both(left, right, either):
            return Both(_emptied(left), _emptied(right), either)
        case Not(inner):
            return Not(_emptied(inner))
        case Comparison(attribute, operator, _):
            return Comparison(attribute, operator, "")
    return found


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | _words, inner, max_size=3),
    max_leaves=8,
)
operations = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "Replace", "REMOVE", "x"])},
    optional={"path": texts | st.sampled_from(["emails", "name", "members", "roles", 'emails[value pr].type']),
              "value": json_values},
)  # fmt: skip


@given(st.lists(operations | json_values, max_size=4))
@settings(max_examples=400)
def test_any_patch_is_done_or_refused(told: list[Any]) -> None:
    user = {"userName": "a", "emails": [{"value": "a@b.c", "type": "work"}], "name": {"givenName": "A"}, "active": True}
    for urn, apply in ((USER_URN, lambda todo: patched_user(user, todo)), (GROUP_URN, patched_group)):
        try:
            apply(steps({"Operations": told}, urn))
        except ScimError as error:
            assert error.status == 400
    assert user["emails"] == [{"value": "a@b.c", "type": "work"}]
