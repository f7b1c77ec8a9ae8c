"""The two ports: the API's, which only forwards, and the gateway's, where every request is checked.

What arrives at the check (tests/gateway/test_envoy_hostile.py holds every line of this):

- the caller's method (TRACE included), `/check` and the path and query exactly as sent (`..`, `//`, `%2e`, `%2f`, `\\`
  untouched), and of his headers Host, Authorization and those of `CHECK_SEES`; never a body;
- a header that stood twice arrives once, its values joined by a comma, on HTTP/1.1 and HTTP/2 alike; an empty first
  value of Authorization is lost in that, others leave a leading comma;
- an absolute request target replaces Host; over HTTP/2 a Host header yields to `:authority`, two end the connection;
- names with an underscore are dropped, for CGI-like upstreams read them as names with a hyphen.

What Envoy refuses by itself: contradictory or unknown framing, methods outside HTTP's list, a fragment or a byte beyond
ASCII in the path, a missing Host, HTTP/1.0, headers beyond 32 KiB or 200 (431; HTTP/2: a reset stream), CONNECT and
`OPTIONS *` (404), upgrades to anything but WebSocket.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bailiwick.gateway.authority_ref import AUTHORITY_HEADER
from bailiwick.gateway.envoy import problems
from bailiwick.gateway.envoy.clusters import API, CHECK, GUARD
from bailiwick.gateway.envoy.model import GatewayConfig, Listener
from bailiwick.gateway.envoy.protos import Config, extension, seconds, set_header, tcp, typed, watched
from bailiwick.gateway.envoy.routes import (
    BODY_LIMIT,
    CALLER_CREDENTIALS,
    CLIENT_REQUEST_ID_HEADER,
    CREDENTIAL_HEADER,
    LENGTH_LIMIT,
    LONG_LIVED_HEADER,
    MAX_HELD_BODY_BYTES,
    METADATA,
    ROUTES,
    SERVER_HEADER,
)

PEER = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
MAX_HEADERS_KIB = 32
CONNECTION_BUFFER_BYTES = 256 * 1024
CHECK_PATH_PREFIX = "/check"

# What the check is shown of the caller's headers; Host, method, path and Authorization always come.
CHECK_SEES = (
    "dpop",
    "traceparent",
    "user-agent",
    SERVER_HEADER,
    CLIENT_REQUEST_ID_HEADER,
    "x-bailiwick-upgrade",
    "x-bailiwick-content-length",
)
REFUSAL_CARRIES = ("content-type", "www-authenticate", "retry-after", "x-request-id", "cache-control", "dpop-nonce")

# Headers by which proxies, gateways and frameworks tell an upstream who the caller is or what it really
# asked for. An upstream that believes one would do something else than what was decided on.
_FORGEABLE_PREFIXES = (
    "x-forwarded-",
    "x-envoy-",
    "x-auth-request-",
    "x-amzn-oidc-",
    "x-goog-authenticated-",
    "x-ms-client-principal",
    "x-ssl-",
)
_FORGEABLE = (
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-remote-user",
    "remote-user",
    "x-client-cert",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
)


def api_listener(config: GatewayConfig, secret: Path | None) -> Config:
    """API, console and token endpoint: everything goes to the workers as it came."""
    manager = _manager(
        "api",
        local_reply_config=problems.api_replies(),
        skip_xff_append=True,
        early_header_mutation_extensions=[
            _early([_forwarded(config), _remove_prefix("x-envoy-"), *_removals("forwarded", "x-real-ip")])
        ],
        http_filters=[_router()],
        route_config={
            "name": API,
            "virtual_hosts": [
                {
                    "name": API,
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {
                                "cluster": API,
                                "timeout": "0s",
                                "idle_timeout": "3600s",
                                # Nothing was sent when no connection was made: any method may try the next worker.
                                "retry_policy": {"retry_on": "connect-failure", "num_retries": 3, **_OTHER_HOST},
                            },
                            # Not Envoy's own X-Forwarded-For, which shows this machine's address for loopback.
                            "request_headers_to_add": [_peer(config)],
                            "request_headers_to_remove": ["x-envoy-external-address", "x-envoy-internal"],
                        }
                    ],
                }
            ],
        },
    )
    return _listener("api", config.api_listener, secret, manager)


def gateway_listener(config: GatewayConfig, secret: Path | None, routes: Path) -> Config:
    """The governed port: strip what callers may not say, ask the check, watch what lasts, forward."""
    manager = _manager(
        "gateway",
        delayed_close_timeout=seconds(config.delayed_close_s),
        local_reply_config=problems.gateway_replies(),
        skip_xff_append=True,
        early_header_mutation_extensions=[_early(_caller_may_not_say())],
        http_filters=[
            *_own_cookie_filter(config.own_cookies),
            _check_filter(config.check_timeout_s),
            _body_limit_filter(),
            _length_limit_filter(),
            _guard_filter(),
            _last_removals_filter(),
            _router(),
        ],
        rds={"route_config_name": ROUTES, "config_source": watched(routes)},
    )
    return _listener("gateway", config.gateway_listener, secret, manager)


def certificate(name: str, chain_pem: str, key_pem: str) -> Config:
    """The SDS resource of a listener's certificate."""
    return typed(
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        name=name,
        tls_certificate={
            "certificate_chain": {"inline_string": chain_pem},
            "private_key": {"inline_string": key_pem},
        },
    )


# -- connections ---------------------------------------------------------------------------------------


def _listener(name: str, listener: Listener, secret: Path | None, manager: Config) -> Config:
    chain: Config = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if secret is not None:
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": typed(
                "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                common_tls_context={
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_params": {
                        "tls_minimum_protocol_version": f"TLSv{listener.tls_minimum.replace('.', '_')}",
                        "tls_maximum_protocol_version": "TLSv1_3",
                    },
                    "tls_certificate_sds_secret_configs": [{"name": name, "sds_config": watched(secret)}],
                },
            ),
        }
    return {
        "name": name,
        "address": tcp(listener.address, listener.port),
        "per_connection_buffer_limit_bytes": CONNECTION_BUFFER_BYTES,
        "filter_chains": [chain],
    }


def _manager(name: str, **fields: Any) -> Config:
    return typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        codec_type="AUTO",
        upgrade_configs=[{"upgrade_type": "websocket"}],
        # No extended CONNECT (RFC 8441): it brings no Sec-WebSocket-Key, which HTTP/1.1 upstreams insist on. Callers
        # who are not offered it open their WebSocket over HTTP/1.1.
        http2_protocol_options={"max_concurrent_streams": 1024},
        common_http_protocol_options={
            "idle_timeout": "3600s",
            # CGI-like upstreams read `X_Api_Key` as `X-Api-Key`: such names would pass by every removal.
            "headers_with_underscores_action": "DROP_HEADER",
            "max_headers_count": 200,
        },
        max_request_headers_kb=MAX_HEADERS_KIB,
        request_headers_timeout="15s",
        request_timeout="0s",
        stream_idle_timeout="3600s",
        use_remote_address=True,
        generate_request_id=False,
        server_header_transformation="PASS_THROUGH",
        scheme_header_transformation={"match_upstream": True},
        # The check decides on the path as it was sent, and refuses what could mean two things.
        normalize_path=False,
        merge_slashes=False,
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        **fields,
    )


# -- what the caller may not say -----------------------------------------------------------------------


def _caller_may_not_say() -> list[Config]:
    """Runs before routing. Only `X-Bailiwick-Server` of our own family is the caller's to set."""
    return [
        {"remove_on_match": {"key_matcher": {"safe_regex": {"regex": _family_except("x-bailiwick-", "server")}}}},
        *(_remove_prefix(prefix) for prefix in _FORGEABLE_PREFIXES),
        *_removals(*_FORGEABLE),
        _copy("x-request-id", CLIENT_REQUEST_ID_HEADER),
        _copy("upgrade", "x-bailiwick-upgrade"),
        _copy("content-length", "x-bailiwick-content-length"),
        *_removals("x-request-id"),
    ]


def _family_except(prefix: str, spared: str) -> str:
    """A regular expression (RE2 has no look-ahead) for every name under `prefix` but one."""
    starts = (f"{spared[:at]}(?:[^{letter}].*)?" for at, letter in enumerate(spared))
    return f"{prefix}(?:{'|'.join(starts)}|{spared}.+)"


def _early(mutations: list[Config]) -> Config:
    message = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return extension("envoy.http.early_header_mutation.header_mutation", message, mutations=mutations)


def _removals(*names: str) -> list[Config]:
    return [{"remove": name} for name in names]


def _forwarded(config: GatewayConfig) -> Config:
    """Remove what proxies say of a request: all of it, or all but the addresses that it passed."""
    if not config.behind_proxies:
        return _remove_prefix("x-forwarded-")
    others = "x-forwarded-([^f].*|f|f[^o].*|fo|fo[^r].*|for.+)?"
    return {"remove_on_match": {"key_matcher": {"safe_regex": {"regex": others}}}}


def _peer(config: GatewayConfig) -> Config:
    if not config.behind_proxies:
        return set_header("x-forwarded-for", PEER)
    return {"header": {"key": "x-forwarded-for", "value": PEER}, "append_action": "APPEND_IF_EXISTS_OR_ADD"}


def _remove_prefix(prefix: str) -> Config:
    return {"remove_on_match": {"key_matcher": {"prefix": prefix}}}


def _copy(source: str, target: str) -> Config:
    return {"append": set_header(target, f"%REQ({source})%")}


def _own_cookie_filter(names: tuple[str, ...]) -> list[Config]:
    """A browser sends our session cookie to every port of this host; the upstream must not get it."""
    if not names:
        return []
    ours = [{"single_predicate": _header_input("cookie") | {"value_match": {"contains": f"{name}="}}} for name in names]
    any_of_ours = ours[0] if len(ours) == 1 else {"or_matcher": {"predicate": ours}}
    return [
        _matched(
            "own-cookie",
            extension(
                "own-cookie",
                "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
                mutations={"request_mutations": _removals("cookie")},
            ),
            _skip_if({"not_matcher": any_of_ours}),
        )
    ]


# -- filters -------------------------------------------------------------------------------------------


_OTHER_HOST = {
    "retry_host_predicate": [
        extension(
            "envoy.retry_host_predicates.previous_hosts",
            "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        )
    ],
    "host_selection_retry_max_attempts": 5,
}


def _check_filter(timeout_s: float) -> Config:
    allowed = (CREDENTIAL_HEADER, LONG_LIVED_HEADER, AUTHORITY_HEADER, "x-request-id")
    return extension(
        "check",
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        failure_mode_allow=False,
        status_on_error={"code": problems.CHECK_FAILED},
        charge_cluster_response_stats=False,
        allowed_headers=_exactly(CHECK_SEES),
        http_service={
            "server_uri": {"uri": "http://check", "cluster": CHECK, "timeout": seconds(timeout_s)},
            "path_prefix": CHECK_PATH_PREFIX,
            "authorization_request": {
                "headers_to_add": [
                    {"key": "x-bailiwick-route", "value": f"%METADATA(ROUTE:{METADATA}:server)%"},
                    {"key": "x-bailiwick-binding", "value": f"%METADATA(ROUTE:{METADATA}:binding)%"},
                    {"key": "x-bailiwick-peer", "value": PEER},
                ]
            },
            "authorization_response": {
                "allowed_upstream_headers": _exactly(allowed),
                "allowed_client_headers": _exactly(REFUSAL_CARRIES),
            },
            # Only what no worker has seen is asked again; a request a worker died with is refused.
            "retry_policy": {
                "retry_on": "connect-failure,reset-before-request",
                "num_retries": 3,
                # Envoy takes the longest pause for the longest try as well, so it is the check's timeout.
                "retry_back_off": {"base_interval": "0.005s", "max_interval": seconds(timeout_s)},
                **_OTHER_HOST,
            },
        },
    )


def _length_limit_filter() -> Config:
    return extension(LENGTH_LIMIT, "envoy.extensions.filters.http.fault.v3.HTTPFault") | {"disabled": True}


def _body_limit_filter() -> Config:
    buffer = extension(
        BODY_LIMIT,
        "envoy.extensions.filters.http.buffer.v3.Buffer",
        max_request_bytes=MAX_HELD_BODY_BYTES,
    )
    declared = _header_input("content-length") | {"value_match": {"safe_regex": {"google_re2": {}, "regex": ".+"}}}
    return _matched(BODY_LIMIT, buffer, _skip_if({"single_predicate": declared})) | {"disabled": True}


def _guard_filter() -> Config:
    """Where the check said that the operation lasts, its stream is registered with the guard."""
    watch = extension(
        "watch",
        "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": GUARD}, "timeout": "1s"},
        failure_mode_allow=False,
        status_on_error={"code": problems.GUARD_FAILED},
        message_timeout="1s",
        # Response trailers are asked for so that the guard's stream lives as long as the request's.
        processing_mode={
            "request_header_mode": "SEND",
            "response_header_mode": "SKIP",
            "request_body_mode": "NONE",
            "response_body_mode": "NONE",
            "request_trailer_mode": "SKIP",
            "response_trailer_mode": "SEND",
        },
        forward_rules={"allowed_headers": _exactly((AUTHORITY_HEADER, "x-request-id"))},
        mutation_rules={"disallow_all": True},
        route_cache_action="RETAIN",
    )
    action = extension(
        "composite-action", "envoy.extensions.filters.http.composite.v3.ExecuteFilterAction", typed_config=watch
    )
    tree = {
        "matcher_tree": {
            "input": _header_input(LONG_LIVED_HEADER)["input"],
            "exact_match_map": {"map": {"1": {"action": action}}},
        }
    }
    composite = extension("composite", "envoy.extensions.filters.http.composite.v3.Composite")
    return _matched("guard", composite, tree)


def _last_removals_filter() -> Config:
    """Past the check, the caller's credentials have done their work; an answer tells nothing of ours or Envoy's."""
    ours = [_remove_prefix("x-bailiwick-"), _remove_prefix("x-envoy-")]
    return extension(
        "last-removals",
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={
            "request_mutations": _removals(*CALLER_CREDENTIALS),
            "response_mutations": ours,
            "response_trailers_mutations": ours,
        },
    )


def _router() -> Config:
    return extension(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        suppress_envoy_headers=True,
    )


def _matched(name: str, wrapped: Config, matcher: Config) -> Config:
    """A filter that runs only where the matcher lets it."""
    return extension(
        name,
        "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
        extension_config=wrapped,
        xds_matcher=matcher,
    )


def _skip_if(predicate: Config) -> Config:
    skip = extension("skip", "envoy.extensions.filters.common.matcher.action.v3.SkipFilter")
    return {"matcher_list": {"matchers": [{"predicate": predicate, "on_match": {"action": skip}}]}}


def _header_input(name: str) -> Config:
    message = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
    return {"input": extension("header", message, header_name=name)}


def _exactly(names: tuple[str, ...]) -> Config:
    return {"patterns": [{"exact": name} for name in names]}
