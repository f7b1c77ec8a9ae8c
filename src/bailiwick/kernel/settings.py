"""Settings of an installation: one place, every value named, checked at start with all errors told at once.

Each field is read from the environment as ``BAILIWICK_<NAME>``; command-line flags win. Nothing here turns
authentication off. ``docs/reference/settings.md`` lists every field; a test keeps it complete.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bailiwick_verify.note import VerifierKey

_ORIGIN = r"^https?://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?$"
_STORE = re.compile(r"s3://[a-z0-9][a-z0-9.-]+(/.*)?|file:///.+")
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Settings(BaseSettings):
    """The settings every process of an installation shares."""

    model_config = SettingsConfigDict(env_prefix="BAILIWICK_", extra="ignore", frozen=True)

    data_dir: Path = Field(description="Where the embedded database, spools, keys, sockets and logs live.")
    host: str = Field("127.0.0.1", description="Address both ports listen on; beyond loopback only with TLS.")
    api_port: int = Field(8080, ge=1, le=65535, description="Port of the API, console and OAuth endpoints.")
    gateway_port: int = Field(8081, ge=1, le=65535, description="Port of the gateway.")
    public_url: str | None = Field(None, description="Base URL of the API port as callers see it; the token issuer.")
    gateway_url: str | None = Field(None, description="Base URL of the gateway as callers see it; mandate audiences.")
    workers: int = Field(1, ge=1, le=64, description="Number of serve workers.")
    envoy_concurrency: int = Field(2, ge=1, le=64, description="Envoy worker threads.")
    tls_cert: Path | None = Field(None, description="PEM certificate chain for both ports.")
    tls_key: Path | None = Field(None, description="PEM private key of the certificate.")
    tls_min_version: Literal["1.2", "1.3"] = Field("1.3", description="Lowest TLS version offered.")
    database_url: SecretStr | None = Field(None, description="PostgreSQL 15+ to use in place of the embedded one.")
    database_direct_url: SecretStr | None = Field(
        None, description="The same database past any transaction pooler: LISTEN, leadership, jobs, migrations."
    )
    database_pool_size: int = Field(8, ge=2, le=200, description="Connections per process.")
    redis_url: SecretStr | None = Field(None, description="redis://, rediss:// or redis+sentinel://; optional.")
    kek_file: Path | None = Field(None, description="Key-encryption keys; default: secrets/kek in the data directory.")
    log_format: Literal["json", "logfmt"] = Field("json", description="Form of log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level logged.")
    slow_ms: int = Field(1000, ge=1, description="Requests and queries slower than this are logged as slow.")
    freshness_limit_s: float = Field(
        30.0, ge=1, le=70, description="Age of the revocation feed beyond which we refuse."
    )
    feed_poll_s: float = Field(
        1.0, ge=0.05, le=10, description="How often the feed's revision is polled beside NOTIFY."
    )
    fence_after_s: float = Field(
        1.0, ge=0.1, le=30, description="A worker not confirming a revocation by then is fenced."
    )
    mandate_ttl_s: int = Field(900, ge=10, le=900, description="Longest life of a mandate.")
    session_ttl_s: int = Field(12 * 3600, ge=60, description="Absolute life of a person's session.")
    session_idle_s: int = Field(4 * 3600, ge=60, description="A session that is not refreshed for so long is over.")
    access_ttl_s: int = Field(3600, ge=60, description="Life of a person's access token.")
    max_sessions: int = Field(5, ge=1, le=1000, description="Sessions a person may have; the oldest ends.")
    mfa_roles: Annotated[tuple[str, ...], NoDecode] = Field(
        ("admin",), description="Comma-separated roles that need a second factor, except in development mode."
    )
    mfa_required_outside: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated networks (CIDR): whoever signs in from elsewhere needs a second factor, whatever"
        " his role. Without any, where somebody is changes nothing.",
    )
    breached_passwords: Path | None = Field(
        None,
        description="Passwords known from breaches, which are refused: a folder of k-anonymity range files (SHA-1), or"
        " one file of sorted 20-byte SHA-1 digests.",
    )
    spool_segment_mb: int = Field(64, ge=1, le=1024, description="Size of a spool segment.")
    allow_upstream_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Comma-separated private networks (CIDR) that upstreams may live in. Link-local never."
    )
    rate_limit_anonymous: int = Field(100, ge=1, description="Management requests per minute per network address.")
    rate_limit_authenticated: int = Field(
        1000, ge=1, description="Management requests per minute per signed-in caller."
    )
    rate_limit_sign_in: int = Field(
        30,
        ge=1,
        description="Failed sign-ins per minute from one network address, counted on each machine, beyond which none"
        " from there is tried.",
    )
    rate_limit_application: int = Field(
        0,
        ge=0,
        description="Requests per minute of one application at the gateway and at the token endpoint, and of one caller"
        " at the decision endpoint, counted on each machine; 0 sets no limit. An application may have its own.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Networks whose X-Forwarded-For is believed."
    )
    cors_origins: Annotated[tuple[Annotated[str, Field(pattern=_ORIGIN)], ...], NoDecode] = Field(
        (), description="Origins whose pages may call the API from a browser, such as https://portal.example.com."
    )
    metrics_token: SecretStr | None = Field(None, description="Bearer accepted at /metrics beside a person's token.")
    decision_cache_entries: int = Field(50_000, ge=0, description="Decisions kept per worker.")
    decision_input_days: int = Field(30, ge=1, description="How long decision inputs are kept, sealed.")
    witnesses: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated witnesses of the ledgers, each `URL VERIFIER-KEY` (C2SP tlog-witness); https, or"
        " http on loopback.",
    )
    witness_quorum: int = Field(1, ge=1, le=32, description="How many witnesses make a tree head a cosigned one.")
    witness_ca: Path | None = Field(None, description="PEM certificates that witnesses' TLS is trusted by, alone.")
    archive_dir: Path | None = Field(
        None, description="Folder of sealed evidence on this machine; default: archive in the data directory."
    )
    archive_url: str | None = Field(
        None,
        description="Where sealed evidence is kept beside that folder: `s3://bucket/prefix`, or `file:///…` for a"
        " folder elsewhere. Without it the folder keeps everything.",
    )
    archive_s3_endpoint: str | None = Field(None, description="Address of an S3 server other than Amazon's.")
    archive_s3_region: str | None = Field(None, description="Region of the bucket.")
    archive_s3_access_key: SecretStr | None = Field(
        None, description="Access key id; without one, credentials are found as AWS tools find them."
    )
    archive_s3_secret_key: SecretStr | None = Field(None, description="Secret access key.")
    archive_seal_gb: float = Field(10.0, gt=0, description="Most evidence one run seals, in GB of event bytes.")
    archive_seal_hours: float = Field(2.0, gt=0, le=12, description="Longest time one run of sealing takes.")
    backup_url: str | None = Field(
        None,
        description="Where backups of the database go: `s3://bucket/prefix`, or `file:///…` for a folder on another"
        " disk. Without it none are made.",
    )
    backup_s3_endpoint: str | None = Field(None, description="Address of an S3 server other than Amazon's.")
    backup_s3_region: str | None = Field(None, description="Region of the bucket.")
    backup_s3_access_key: SecretStr | None = Field(
        None, description="Access key id; without one, credentials are found as AWS tools find them."
    )
    backup_s3_secret_key: SecretStr | None = Field(None, description="Secret access key.")
    backup_escrow_key: str | None = Field(
        None,
        description="Public key, 64 hex digits, that the key-encryption keys are sealed to in every backup; its private"
        " key is kept elsewhere. Without it a backup holds no key that opens its secrets.",
    )
    probe_files: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Comma-separated files and folders that probes of the operating model may read."
    )
    probe_programs: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Comma-separated programs (absolute paths) that probes of the operating model may run."
    )
    documents_dir: Path | None = Field(
        None,
        description="Folder in which the paths of reviewed documents are looked up. Default: the source tree that the"
        " program runs from, if it does; an installed package sees none of its documents.",
    )
    rollout_programs: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Comma-separated programs (absolute paths) that reviewed plans of rollouts may run."
    )
    rollout_directory: Path | None = Field(
        None,
        description="Where those programs run: the release's files, and `kubeconfig` if there is one. Without it plans"
        " run nothing.",
    )
    release: str | None = Field(
        None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="Digest of the release that runs here, such as its image's: what a loop of access may tell of"
        " beside the active policy set.",
    )
    dev: bool = Field(False, description="Development mode: loopback only, and it says so.")
    clock_factor: float = Field(1.0, gt=0, le=100_000, description="Speeds time up; development mode only.")
    clock_stride_s: int = Field(
        0,
        ge=0,
        le=7 * 86_400,
        description="Time may be moved on by `bailiwick clock advance`, and no job is due more often than so many"
        " seconds; development mode only.",
    )

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, object]) -> dict[str, object]:
        for name in (
            "allow_upstream_networks",
            "trusted_proxies",
            "witnesses",
            "mfa_roles",
            "mfa_required_outside",
            "cors_origins",
            "probe_files",
            "probe_programs",
            "rollout_programs",
        ):
            raw = values.get(name)
            if isinstance(raw, str):
                values[name] = tuple(part.strip() for part in raw.split(",") if part.strip())
        return values

    @model_validator(mode="after")
    def _coherent(self) -> Settings:
        problems = []
        if (self.tls_cert is None) != (self.tls_key is None):
            problems.append("tls_cert and tls_key go together")
        if self.host not in LOOPBACK and self.tls_cert is None:
            problems.append("listening beyond loopback needs TLS (tls_cert and tls_key)")
        if self.dev and self.host not in LOOPBACK:
            problems.append("development mode listens on loopback only")
        for name, shifted in (("clock_factor", self.clock_factor != 1.0), ("clock_stride", self.clock_stride_s > 0)):
            if shifted and not self.dev:
                problems.append(f"{name} needs development mode")
        if (self.archive_s3_access_key is None) != (self.archive_s3_secret_key is None):
            problems.append("archive_s3_access_key and archive_s3_secret_key go together")
        if self.archive_url is not None and not _STORE.fullmatch(self.archive_url):
            problems.append("archive_url is neither s3://bucket/prefix nor file:///folder")
        if (self.backup_s3_access_key is None) != (self.backup_s3_secret_key is None):
            problems.append("backup_s3_access_key and backup_s3_secret_key go together")
        if self.backup_url is not None and not _STORE.fullmatch(self.backup_url):
            problems.append("backup_url is neither s3://bucket/prefix nor file:///folder")
        if self.backup_escrow_key is not None and not re.fullmatch("[0-9a-f]{64}", self.backup_escrow_key):
            problems.append("backup_escrow_key is not 64 hex digits")
        if not all(path.is_absolute() for path in (*self.probe_files, *self.probe_programs)):
            problems.append("probe_files and probe_programs are absolute paths")
        if not all(path.is_absolute() for path in self.rollout_programs):
            problems.append("rollout_programs are absolute paths")
        if self.api_port == self.gateway_port:
            problems.append("api_port and gateway_port must differ")
        if self.breached_passwords is not None and not self.breached_passwords.exists():
            problems.append("breached_passwords is neither a folder nor a file")
        if self.witness_ca is not None and not self.witness_ca.is_file():
            problems.append("witness_ca is not a file")
        if self.witnesses and self.witness_quorum > len(self.witnesses):
            problems.append("witness_quorum is larger than the number of witnesses")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def shown(self) -> dict[str, Any]:
        """Every setting as JSON shows it; of a secret only that it is set."""
        return {name: shown_value(getattr(self, name)) for name in type(self).model_fields}

    @field_validator("witnesses")
    @classmethod
    def _told_in_full(cls, witnesses: tuple[str, ...]) -> tuple[str, ...]:
        names = [parse_witness(text)[1].name for text in witnesses]
        if len(set(names)) != len(names):
            raise ValueError("two witnesses have one name")
        return witnesses

    @field_validator("mfa_required_outside")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ip_network(network)  # raises ValueError, with the network in its text
        return networks

    @property
    def scheme(self) -> str:
        """``https`` when TLS is configured."""
        return "https" if self.tls_cert else "http"

    @property
    def issuer(self) -> str:
        """Base URL of the API, without trailing slash; ``iss`` of the default zone."""
        return (self.public_url or f"{self.scheme}://{self._authority(self.api_port)}").rstrip("/")

    @property
    def gateway(self) -> str:
        """Base URL of the gateway, without trailing slash."""
        return (self.gateway_url or f"{self.scheme}://{self._authority(self.gateway_port)}").rstrip("/")

    def zone_issuer(self, zone: str) -> str:
        """The issuer of ``zone``: the default zone stands at the root, others under ``/z/<zone>``."""
        return self.issuer if zone == "default" else f"{self.issuer}/z/{zone}"

    def audience(self, zone: str, server: str) -> str:
        """The resource URI (RFC 8707) of a server, which is the ``aud`` of its mandates."""
        base = self.gateway if zone == "default" else f"{self.gateway}/z/{zone}"
        return f"{base}/s/{server}"

    def _authority(self, port: int) -> str:
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 - compared, not bound
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_witness(text: str) -> tuple[str, VerifierKey]:
    """The address and the cosigner key of a witness told as ``URL VERIFIER-KEY``; raises ValueError."""
    url, _, key = text.strip().partition(" ")
    host = urlsplit(url).hostname
    if not url.startswith(("https://", "http://")) or not host:
        raise ValueError("a witness's address begins with https://")
    if url.startswith("http://") and host not in LOOPBACK:
        raise ValueError("a witness beyond loopback is reached by https")
    return url.rstrip("/"), VerifierKey.parse(key.strip()).as_cosigner()


def shown_value(value: Any) -> Any:
    """A setting's value as JSON shows it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, SecretStr):
        return "(set)"
    if isinstance(value, tuple):
        return [str(each) if isinstance(each, Path) else each for each in value]
    return str(value)
