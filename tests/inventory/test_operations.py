from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.inventory.operations import MAX_OPERATIONS, Operation, OperationIndex, segments_of, validate
from bailiwick.kernel.errors import InvalidRequest


def listed(*pairs: str) -> tuple[Operation, ...]:
    return tuple(Operation(*pair.split(" "), scope="s:x") for pair in pairs)


def found(index: OperationIndex, method: str, path: str) -> str | None:
    operation = index.match(method, path)
    return operation.path if operation is not None else None


PAYMENTS = OperationIndex(
    listed(
        "GET /payments",
        "POST /payments",
        "GET /payments/{id}",
        "GET /payments/search",
        "GET /payments/{id}/items/{item}",
        "GET /payments/{id}/items/latest",
        "GET /users/me",
        "POST /users/{id}",
        "GET /a/b/d",
        "GET /a/{x}/c",
        "GET /",
        "GET /with-slash/",
        "GET /caf%C3%A9/{x}",
    )
)


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/payments", "/payments"),
        ("/payments/p1", "/payments/{id}"),
        ("/payments/search", "/payments/search"),
        ("/payments/p1/items/latest", "/payments/{id}/items/latest"),
        ("/payments/p1/items/7", "/payments/{id}/items/{item}"),
        ("/a/b/d", "/a/b/d"),
        ("/a/b/c", "/a/{x}/c"),
        ("/", "/"),
        ("/with-slash/", "/with-slash/"),
        ("/caf%C3%A9/1", "/caf%C3%A9/{x}"),
        ("/payments/a%20b", "/payments/{id}"),
        ("/payments/...", "/payments/{id}"),
        ("/payments/.hidden", "/payments/{id}"),
    ],
)
def test_a_literal_beats_a_variable(path: str, template: str) -> None:
    assert found(PAYMENTS, "GET", path) == template


@pytest.mark.parametrize(
    "path",
    [
        "",
        "payments",
        "//payments",
        "/payments/",
        "/payments//items/1",
        "/payments/p1/",
        "/payments/p1/items",
        "/payments/.",
        "/payments/..",
        "/payments/..;x",
        "/payments/%2e%2e",
        "/payments/%2E.",
        "/payments/a%2fb",
        "/payments/a%2Fb",
        "/payments/a%5cb",
        "/payments/a%00",
        "/payments/a%252fb",
        "/payments/p\u00e9",
        "/with-slash",
        "/unknown",
        "/" + "/".join(["x"] * 100),
    ],
)
def test_no_match_is_no_operation(path: str) -> None:
    assert PAYMENTS.match("GET", path) is None


def test_the_path_decides_before_the_method() -> None:
    assert found(PAYMENTS, "POST", "/users/7") == "/users/{id}"
    assert PAYMENTS.match("POST", "/users/me") is None
    assert PAYMENTS.match("get", "/payments") is None
    assert PAYMENTS.match("HEAD", "/payments") is None


@pytest.mark.parametrize("spelling", ["m%65", "%6d%65", "%6De", "me;v=1", "me%3bv=1", "me;"])
def test_another_spelling_of_a_literal_is_not_a_value_of_the_variable_beside_it(spelling: str) -> None:
    assert PAYMENTS.match("POST", f"/users/{spelling}") is None
    assert PAYMENTS.match("GET", f"/users/{spelling}") is None


@pytest.mark.parametrize(
    "path",
    [
        "payments",
        "/a//b",
        "/a/./b",
        "/a/../b",
        "/a/..;/b",
        "/{a}/{a}",
        "/{a",
        "/a}",
        "/{}",
        "/{a}.json",
        "/{rest*}",
        "/*",
        "/a?b=1",
        "/a#b",
        "/a%2fb",
        "/a%2e",
        "/a%zz",
        "/a b",
        "/é",
        "/a\\b",
        "/" + "a" * 2000,
        "/" + "/".join(["x"] * 40),
    ],
)
def test_a_malformed_template_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequest):
        segments_of(path)


def test_the_same_operation_twice_is_refused_whatever_its_variables_are_called() -> None:
    with pytest.raises(InvalidRequest, match="listed twice"):
        validate(listed("GET /payments/{id}", "GET /payments/{payment}"))
    validate(listed("GET /payments/{id}", "PUT /payments/{payment}"))


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "get", "", "GET ", "G\nET"])
def test_methods_that_are_not_carried_are_refused(method: str) -> None:
    with pytest.raises(InvalidRequest):
        validate([Operation(method, "/", "s")])


@pytest.mark.parametrize("scope", ["", "Read", "1a", "a b", "a\n", "a" * 101])
def test_scopes_have_one_form(scope: str) -> None:
    with pytest.raises(InvalidRequest):
        validate([Operation("GET", "/", scope)])


def test_too_many_operations_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most"):
        validate(Operation("GET", f"/{number}", "s") for number in range(MAX_OPERATIONS + 1))


_SEGMENT = st.sampled_from(["a", "b", "c", "{x}"])
_TEMPLATES = st.lists(st.lists(_SEGMENT, min_size=1, max_size=4), min_size=1, max_size=12)


def reference(templates: list[list[str]], path: list[str]) -> list[str] | None:
    """The best match by comparing all: the first segment where two differ, a literal wins."""
    fitting = [
        template
        for template in templates
        if len(template) == len(path) and all(want in (got, "{x}") for want, got in zip(template, path, strict=True))
    ]
    return min(fitting, key=lambda template: [segment == "{x}" for segment in template], default=None)


@given(_TEMPLATES, st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4))
def test_the_matcher_agrees_with_comparing_all_templates(templates: list[list[str]], path: list[str]) -> None:
    unique = [list(template) for template in dict.fromkeys(tuple(template) for template in templates)]
    named = ["/" + "/".join(s if s != "{x}" else f"{{x{i}}}" for i, s in enumerate(template)) for template in unique]
    index = OperationIndex(Operation("GET", text, "s") for text in named)
    expected = reference(unique, path)
    wanted = named[unique.index(expected)] if expected is not None else None
    assert found(index, "GET", "/" + "/".join(path)) == wanted


@given(st.text(max_size=40))
def test_no_path_makes_the_matcher_fail(path: str) -> None:
    operation = PAYMENTS.match("GET", f"/payments/{path}")
    if operation is not None and operation.path == "/payments/{id}":
        assert "/" not in path
        assert path not in {"", ".", "..", "search"}
