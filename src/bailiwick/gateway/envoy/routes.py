"""Routes: from a request to the server it names.

A server is named by `/s/{server}/…` (`/z/{zone}/s/{server}/…` outside the default zone), by its own host name
or by `X-Bailiwick-Server`. Envoy picks one of them and tells the check which (`x-bailiwick-route`); the check
sees all three and refuses a disagreement.
A request that names no server, or one without an upstream, is routed to a fixed answer that it never
receives: the check runs first and refuses with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable

from bailiwick.gateway.authority_ref import AUTHORITY_HEADER
from bailiwick.gateway.envoy.clusters import arm_cluster_name, upstream_cluster_name
from bailiwick.gateway.envoy.model import Route, Upstream
from bailiwick.gateway.envoy.protos import Config, extension, seconds, set_header, typed

ROUTES = "gateway"
METADATA = "bailiwick"
LENGTH_LIMIT = "length-limit"
BODY_LIMIT = "body-limit"
CREDENTIAL_HEADER = "x-bailiwick-credential"
LONG_LIVED_HEADER = "x-bailiwick-long-lived"
SERVER_HEADER = "x-bailiwick-server"
CLIENT_REQUEST_ID_HEADER = "x-bailiwick-client-request-id"

MIN_HELD_BODY_BYTES, MAX_HELD_BODY_BYTES = 1024 * 1024, 16 * 1024 * 1024

# The caller's credentials for us, removed after the check: the upstream gets its own credential or none.
CALLER_CREDENTIALS = ("authorization", "proxy-authorization", "dpop", "x-api-key")

# Added by Envoy or by us on the way, of no concern to an upstream.
_OURS = (
    CREDENTIAL_HEADER,
    LONG_LIVED_HEADER,
    AUTHORITY_HEADER,
    SERVER_HEADER,
    CLIENT_REQUEST_ID_HEADER,
    "x-bailiwick-upgrade",
    "x-bailiwick-content-length",
    "x-forwarded-proto",
    "x-forwarded-for",
    "x-envoy-external-address",
    "x-envoy-internal",
    "keep-alive",
)
_TOLD_BY_UPSTREAM = ("server", "x-powered-by", "x-aspnet-version", "x-aspnetmvc-version")

# Only what may be sent twice, and only when no connection was made.
_RETRIES: Config = {
    "retry_on": "connect-failure",
    "num_retries": 2,
    "retriable_request_headers": [
        {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD|OPTIONS|PUT|DELETE"}}}
    ],
}


def route_configuration(routes: Iterable[Route]) -> Config:
    """The gateway's whole routing table (the RDS resource). Raises `ValueError` when two routes claim a name."""
    ordered = sorted(routes, key=lambda route: route.name)
    _refuse_double_claims(ordered)
    return typed(
        "envoy.config.route.v3.RouteConfiguration",
        name=ROUTES,
        ignore_port_in_host_matching=True,
        virtual_hosts=[
            *(_host_table(route) for route in ordered if route.hosts),
            _default_table(ordered),
        ],
        # Runs after the routes' own mutations: those have copied the credential to where it belongs.
        request_headers_to_remove=list(_OURS),
        response_headers_to_remove=list(_TOLD_BY_UPSTREAM),
        response_headers_to_add=[set_header("x-request-id", "%REQ(X-REQUEST-ID)%")],
    )


def _refuse_double_claims(routes: list[Route]) -> None:
    seen: dict[str, str] = {}
    for route in routes:
        for claim in (f"server {route.name}", *(f"host {host}" for host in route.hosts)):
            if claim in seen:
                raise ValueError(f"{claim} is claimed by both {seen[claim]} and {route.name}")
            seen[claim] = route.name


def _default_table(routes: list[Route]) -> Config:
    """Every host that is no server's own: by path, then by header."""
    by_header = {route.name: _action(_whole_path(route)) for route in routes}
    unknown = _action(_dead_end({"prefix": "/"}, 404, None))
    return {
        "name": "any",
        "domains": ["*"],
        "retry_policy": _RETRIES,
        "matcher": _by_path(routes, otherwise=_tree("exact_match_map", SERVER_HEADER, by_header, unknown)),
    }


def _host_table(route: Route) -> Config:
    return {
        "name": f"host:{route.name}",
        "domains": list(route.hosts),
        "retry_policy": _RETRIES,
        "matcher": _by_path([route], otherwise=_action(_whole_path(route))),
    }


def _by_path(routes: list[Route], otherwise: Config) -> Config:
    """`/s/{server}` and everything below it; a trie, so that a thousand servers cost what one costs."""
    below = {
        f"{route.path}{mark}": _action(_below_name(route) if mark == "/" else _bare_name(route))
        for route in routes
        for mark in ("/", "?")
    }
    bare = {route.path: _action(_bare_name(route)) for route in routes}
    tree = _tree("prefix_match_map", ":path", below, _tree("exact_match_map", ":path", bare, otherwise))
    matcher: Config = tree["matcher"]
    return matcher


def _tree(kind: str, header: str, entries: dict[str, Config], otherwise: Config) -> Config:
    """A matcher over one header; with no entries (Envoy refuses an empty map) it is what follows it."""
    if not entries:
        return otherwise if "matcher" in otherwise else {"matcher": {"on_no_match": otherwise}}
    message = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
    return {
        "matcher": {
            "matcher_tree": {"input": extension("header", message, header_name=header), kind: {"map": entries}},
            "on_no_match": otherwise,
        }
    }


def _action(route: Config) -> Config:
    return {"action": {"name": "route", "typed_config": typed("envoy.config.route.v3.Route", **route)}}


def _below_name(route: Route) -> Config:
    return _route(route, {"prefix": f"{route.path}/"}, route.path_prefix.rstrip("/") + "/")


def _bare_name(route: Route) -> Config:
    return _route(route, {"path": route.path}, route.path_prefix.rstrip("/") or "/")


def _whole_path(route: Route) -> Config:
    return _route(route, {"prefix": "/"}, route.path_prefix.rstrip("/") + "/")


def _route(route: Route, match: Config, rewrite: str) -> Config:
    if route.upstream is None:
        return _dead_end(match, 503, route)
    entry: Config = {
        "match": match,
        "metadata": _metadata(route),
        "route": {
            **_destination(route, route.upstream),
            "prefix_rewrite": rewrite,
            **_timeouts(route, route.upstream),
        },
    }
    if route.credential_header is not None:
        # Removal precedes addition, so what arrives is the credential or nothing, never the caller's.
        if route.credential_header not in CALLER_CREDENTIALS:
            entry["request_headers_to_remove"] = [route.credential_header]
        entry["request_headers_to_add"] = [set_header(route.credential_header, "%REQ(X-BAILIWICK-CREDENTIAL)%")]
    if route.max_request_bytes is not None:
        entry["typed_per_filter_config"] = _body_limits(route.max_request_bytes, route.long_lived)
    return entry


def _destination(route: Route, upstream: Upstream) -> Config:
    """One cluster, or the arms of a split by their weights."""
    if route.split is None:
        return {"cluster": upstream_cluster_name(route), "host_rewrite_literal": upstream.host}
    arms = [
        {
            "name": arm_cluster_name(route.name, route.split.canary, arm.name, arm.upstream),
            "weight": arm.weight,
            "host_rewrite_literal": arm.upstream.host,
        }
        for arm in route.split.arms
    ]
    return {"weighted_clusters": {"clusters": arms}}


def _body_limits(limit: int, long_lived: bool) -> Config:
    """A declared length is judged at once and the body streams. A body of unknown length is held until its length
    is known and then judged likewise, so memory bounds it too; a stream (`long_lived`) cannot be held."""
    limits = {
        LENGTH_LIMIT: typed(
            "envoy.extensions.filters.http.fault.v3.HTTPFault",
            abort={"http_status": 413, "percentage": {"numerator": 100}},
            headers=[{"name": "content-length", "range_match": {"start": limit + 1, "end": 2**63 - 1}}],
        )
    }
    if not long_lived:
        # Never less than may have come in while the check was asked: Envoy would wait for ever for the rest.
        held = min(max(limit, MIN_HELD_BODY_BYTES), MAX_HELD_BODY_BYTES)
        limits[BODY_LIMIT] = typed(
            "envoy.extensions.filters.http.buffer.v3.BufferPerRoute", buffer={"max_request_bytes": held}
        )
    return limits


def _timeouts(route: Route, upstream: Upstream) -> Config:
    unbounded = route.long_lived or upstream.timeout_s is None
    return {
        "timeout": seconds(0 if unbounded else upstream.timeout_s or 0),
        "idle_timeout": seconds(upstream.idle_timeout_s),
    }


def _dead_end(match: Config, status: int, route: Route | None) -> Config:
    return {"match": match, "metadata": _metadata(route), "direct_response": {"status": status}}


def _metadata(route: Route | None) -> Config:
    """What the check learns about the route: the server's name and its binding's revision."""
    facts: Config = {}
    if route is not None:
        facts = {"server": route.name, "binding": route.binding}
    return {"filter_metadata": {METADATA: facts}}
