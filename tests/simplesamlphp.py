"""Debian's SimpleSAMLphp as an identity provider: its own configuration, PHP's own web server, a browser's manners."""

from __future__ import annotations

import base64
import contextlib
import http.cookiejar
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from html import unescape
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin

from cryptography.hazmat.primitives import serialization

from ports import free_port
from saml_idp import key, pem

HOME = Path("/usr/share/simplesamlphp")
PERSISTENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent"

_CONFIG = """<?php
$config = [
  'baseurlpath' => '{base}/', 'certdir' => '{home}/', 'loggingdir' => '{home}/', 'datadir' => '{home}/',
  'tempdir' => '{home}/tmp', 'metadatadir' => '{home}/metadata/', 'attributenamemapdir' => '{home}/',
  'timezone' => 'UTC', 'secretsalt' => 'only-for-tests-0123456789abcdef', 'auth.adminpassword' => 'unused-4711',
  'technicalcontact_name' => 'Tests', 'technicalcontact_email' => 'na@example.org',
  'enable.saml20-idp' => true, 'module.enable' => ['exampleauth' => true, 'core' => true, 'saml' => true],
  'session.cookie.secure' => false, 'store.type' => 'phpsession', 'logging.handler' => 'file',
  'metadata.sources' => [['type' => 'flatfile', 'directory' => '{home}/metadata']],
];
"""
_SOURCES = """<?php
$config = ['people' => ['exampleauth:UserPass',
  'ada:analytical' => ['uid' => ['ada'], 'mail' => ['ada@example.com'], 'displayName' => ['Ada Lovelace'],
    'groups' => ['staff', 'ops']],
  'bob:builder' => ['uid' => ['bob'], 'mail' => ['bob@example.com'], 'displayName' => ['Bob'], 'groups' => ['nobody']],
]];
"""
_IDP = """<?php
$metadata['__DYNAMIC:1__'] = ['host' => '__DEFAULT__', 'privatekey' => 'idp.key', 'certificate' => 'idp.crt',
  'SingleSignOnServiceBinding' => ['urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect',
    'urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST'],
  'auth' => 'people', 'redirect.sign' => true, 'redirect.validate' => true, 'sign.logout' => true,
  'validate.authnrequest' => true, 'NameIDFormat' => '{persistent}',
  'signature.algorithm' => 'http://www.w3.org/2001/04/xmldsig-more#rsa-sha256',
  'authproc' => [3 => ['class' => 'saml:AttributeNameID', 'attribute' => 'uid', 'Format' => '{persistent}']]];
"""
_SP = """<?php
$metadata['{entity}'] = ['AssertionConsumerService' => '{acs}', 'SingleLogoutService' => '{slo}',
  'NameIDFormat' => '{persistent}', 'validate.authnrequest' => true, 'redirect.sign' => true,
  'redirect.validate' => true, 'sign.logout' => true, 'saml20.sign.response' => {sign_response},
  'assertion.encryption' => {encrypt}, 'keys' => [
    ['type' => 'X509Certificate', 'signing' => true, 'encryption' => false, 'X509Certificate' => '{signing}'],
    ['type' => 'X509Certificate', 'signing' => false, 'encryption' => true, 'X509Certificate' => '{encryption}']]];
"""


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


@dataclass
class Page:
    """What a browser got."""

    status: int
    url: str
    headers: dict[str, str]
    text: str

    def form(self) -> tuple[str, dict[str, str]]:
        """The page's form: where it goes, and its hidden fields."""
        action = re.search(r'<form[^>]*action="([^"]*)"', self.text)
        fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', self.text))
        return urljoin(self.url, unescape(action.group(1)) if action else ""), {
            name: unescape(value) for name, value in fields.items()
        }


@dataclass
class Browser:
    """Follows redirects within a site and keeps its cookies."""

    jar: http.cookiejar.CookieJar = field(default_factory=http.cookiejar.CookieJar)

    def get(self, url: str, form: dict[str, str] | None = None, *, until: str = "\0") -> Page:
        """The page at the end of the redirects; stops before an address that begins with ``until``."""
        opener = urllib.request.build_opener(_Stay(), urllib.request.HTTPCookieProcessor(self.jar))
        for _ in range(10):
            data = None if form is None else urlencode(form).encode()
            try:
                with opener.open(urllib.request.Request(url, data), timeout=30) as answer:
                    page = Page(answer.status, url, _lower(answer.headers), answer.read().decode())
            except HTTPError as error:
                page = Page(error.code, url, _lower(error.headers), error.read().decode())
            if page.status not in (302, 303):
                return page
            url, form = urljoin(url, page.headers["location"]), None
            if url.startswith(until):
                return Page(page.status, url, page.headers, "")
        raise AssertionError("too many redirects")


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@dataclass
class SimpleSamlPhp:
    """The running provider."""

    base: str
    home: Path

    @property
    def metadata(self) -> str:
        """Its metadata, as an administrator downloads them."""
        return Browser().get(f"{self.base}/saml2/idp/metadata.php").text

    def trust(self, ours: str, *, encrypt: bool = False, sign_response: bool = True) -> None:
        """Store our metadata there."""
        certificates = re.findall(r"<ds:X509Certificate>([^<]+)<", ours)
        entity = re.findall(r'entityID="([^"]+)"', ours)[0]
        base = entity.removesuffix("/metadata")
        text = _SP
        for name, value in {
            "entity": entity, "acs": f"{base}/acs", "slo": f"{base}/slo", "signing": certificates[0],
            "encryption": certificates[1], "encrypt": str(encrypt).lower(), "sign_response": str(sign_response).lower(),
            "persistent": PERSISTENT,
        }.items():  # fmt: skip
            text = text.replace(f"{{{name}}}", value)
        (self.home / "metadata/saml20-sp-remote.php").write_text(text)

    def forget(self) -> None:
        """Know no service provider any more."""
        (self.home / "metadata/saml20-sp-remote.php").write_text("<?php\n")

    def sign_in(
        self, browser: Browser, url: str, name: str, password: str, request: dict[str, str] | None = None
    ) -> tuple[str, dict[str, str]]:
        """What a person does there, sent with the form ``request`` if any; the form that his browser then sends us."""
        asked = browser.get(url, request)
        if 'name="SAMLResponse"' not in asked.text:
            action, fields = asked.form()
            assert "AuthState" in fields, asked.text[:2000]
            asked = browser.get(action, {**fields, "username": name, "password": password})
        action, fields = asked.form()
        assert "SAMLResponse" in fields, asked.text[:2000]
        return action, fields


@contextlib.contextmanager
def simplesamlphp() -> Iterator[SimpleSamlPhp]:
    """A provider of its own for a test file."""
    home = Path(tempfile.mkdtemp(prefix="bw-ssp-", dir="/tmp"))
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    for folder in ("metadata", "tmp", "sessions"):
        (home / folder).mkdir()
    (home / "config.php").write_text(_CONFIG.replace("{base}", base).replace("{home}", str(home)))
    (home / "authsources.php").write_text(_SOURCES)
    (home / "metadata/saml20-idp-hosted.php").write_text(_IDP.replace("{persistent}", PERSISTENT))
    (home / "metadata/saml20-sp-remote.php").write_text("<?php\n")
    (home / "idp.key").write_text(pem("simplesamlphp"))
    der = key("simplesamlphp").certificate.public_bytes(serialization.Encoding.DER)
    lines = "\n".join(re.findall(".{1,64}", base64.b64encode(der).decode()))
    (home / "idp.crt").write_text(f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
    options = ("-d", f"session.save_path={home}/sessions", "-d", "display_errors=0", "-d", "opcache.enable=0")
    with (home / "php.log").open("wb") as log:
        server = subprocess.Popen(
            ["php", *options, "-S", f"127.0.0.1:{port}", "-t", str(HOME / "www")],
            env={"SIMPLESAMLPHP_CONFIG_DIR": str(home), "PATH": "/usr/bin:/bin"},
            stdout=log,
            stderr=log,
        )
    try:
        _await(port, server)
        yield SimpleSamlPhp(base, home)
    finally:
        server.terminate()
        server.wait(10)
        shutil.rmtree(home, ignore_errors=True)


def _await(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert server.poll() is None and time.monotonic() < deadline, "PHP does not serve"
        time.sleep(0.05)
