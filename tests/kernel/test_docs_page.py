from __future__ import annotations

import re
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from asgi import call
from fastapi import FastAPI, File, Query, UploadFile
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, Field

from bailiwick.kernel import docs_page
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.docs_page import openapi_30
from bailiwick.kernel.front import SECURITY_HEADERS, Front
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.metrics import Metrics


class Colour(Enum):
    RED = "red"


class Inner(BaseModel):
    x: int | None = None


class Thing(BaseModel):
    kind: Literal["only"] = "only"
    name: str | None = Field(None, examples=["a"])
    both: int | str | None = None
    inner: Inner | None = None
    colour: Colour = Colour.RED
    size: Annotated[float, Field(gt=0, lt=5)] = 1.0
    pair: tuple[int, str] = (1, "a")
    tags: dict[str, str | None] = {}
    properties: dict[str, int] = {}


def application() -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None)
    app.include_router(docs_page.routes())

    @app.post("/things")
    async def things(thing: Thing, limit: Annotated[int | None, Query()] = None) -> Thing:
        return thing

    @app.post("/files")
    async def files(file: Annotated[UploadFile, File()]) -> None: ...

    return app


@pytest.fixture
def front() -> Front:
    return Front(application(), {}, ids=Ids(), clock=SystemClock(), metrics=Metrics(CollectorRegistry()))


@pytest.mark.parametrize("base", ["", "/z/blue"])
async def test_the_page_and_all_it_names_are_served_from_here(front: Front, base: str) -> None:
    page = await call(front, "GET", f"{base}/docs")
    assert page.status == 200
    text = page.body.decode()
    named = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(named) == 4
    assert "//" not in text.replace("<!doctype", "")
    start = await call(front, "GET", f"{base}/docs/start.js")
    (document,) = re.findall(r'url: "([^"]+)"', start.body.decode())
    for relative in [*named, document]:
        answer = await call(front, "GET", f"{base}/{relative}")
        assert answer.status == 200, relative
        assert len(answer.body) > 100
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_no_script_is_inline_and_the_policy_is_the_strict_one(front: Front) -> None:
    page = await call(front, "GET", "/docs")
    assert page.headers["content-security-policy"] == dict(SECURITY_HEADERS)[b"content-security-policy"].decode()
    text = page.body.decode()
    assert re.findall(r"<script[^>]*>([^<]*)</script>", text) == ["", ""]
    assert not re.search(r"\son\w+=|<style|style=|javascript:", text)


async def test_a_file_is_asked_for_once(front: Front) -> None:
    first = await call(front, "GET", "/docs/swagger-ui.css")
    again = await call(front, "GET", "/docs/swagger-ui.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert (await call(front, "GET", "/docs/../app.py")).status == 404
    assert (await call(front, "GET", "/docs/index.html")).status == 404


async def test_the_document_stays_as_it_is_and_the_page_gets_older_words(front: Front) -> None:
    original = (await call(front, "GET", "/openapi.json")).json
    older = (await call(front, "GET", "/docs/openapi.json")).json
    assert original["openapi"].startswith("3.1")
    assert older["openapi"] == "3.0.3"
    assert set(older["paths"]) == set(original["paths"]) == {"/things", "/files"}
    thing = older["components"]["schemas"]["Thing"]["properties"]
    assert thing["kind"]["enum"] == ["only"]
    assert (thing["name"]["type"], thing["name"]["nullable"], thing["name"]["example"]) == ("string", True, "a")
    assert thing["both"]["nullable"]
    assert [option["type"] for option in thing["both"]["anyOf"]] == ["integer", "string"]
    assert thing["inner"]["allOf"] == [{"$ref": "#/components/schemas/Inner"}]
    assert thing["inner"]["nullable"]
    assert (thing["size"]["minimum"], thing["size"]["exclusiveMinimum"]) == (0, True)
    assert thing["pair"]["items"] == {}
    assert thing["tags"]["additionalProperties"] == {"type": "string", "nullable": True}
    assert thing["properties"]["type"] == "object"
    (limit,) = older["paths"]["/things"]["post"]["parameters"]
    assert (limit["schema"]["type"], limit["schema"]["nullable"]) == ("integer", True)
    form = next(schema for name, schema in older["components"]["schemas"].items() if name.startswith("Body_"))
    assert form["properties"]["file"]["format"] == "binary"


def words(node: Any) -> set[str]:
    if isinstance(node, dict):
        return {
            "type:null" for key, part in node.items() if key == "type" and (part == "null" or isinstance(part, list))
        }.union(node, *(words(part) for part in node.values()))
    if isinstance(node, list):
        return set().union(*(words(part) for part in node))
    return set()


async def test_no_word_of_the_newer_version_is_left(front: Front) -> None:
    older = (await call(front, "GET", "/docs/openapi.json")).json
    assert not words(older) & {"const", "prefixItems", "examples", "contentMediaType", "type:null", "$defs"}


def test_several_types_at_once() -> None:
    converted = openapi_30(
        {"openapi": "3.1.0", "webhooks": {}, "a": {"type": ["string", "integer", "null"]}, "b": {"type": "null"}}
    )
    assert converted == {
        "openapi": "3.0.3",
        "a": {"nullable": True, "anyOf": [{"type": "string"}, {"type": "integer"}]},
        "b": {"nullable": True, "enum": [None]},
    }
