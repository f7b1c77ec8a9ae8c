"""A look at a TLS server: does the handshake hold, for the right names, and how long does the certificate last."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from cryptography import x509

from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.probes.spec import TlsCheck
from bailiwick.assurance.probes.web import trusted
from bailiwick.assurance.thresholds import Unit
from bailiwick.evidence.siem.destination import Retry, Stop
from bailiwick.evidence.siem.outgoing import reached, tls_context

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


async def tls(check: TlsCheck, means: Means, asked: Asked) -> Found:
    """Make the handshake. What it shows to be wrong is a finding; that nobody answers is an error."""
    host = check.host.strip("[]")
    context = tls_context(trusted(means, check.ca_file))
    context.minimum_version = _VERSIONS[check.min_version]
    try:
        async with asyncio.timeout(asked.timeout_s):
            address = (await reached(means.reach, host, check.port))[0]
            _, writer = await asyncio.open_connection(address, check.port)
            await _shake(writer, context, host)
    except (Stop, Retry) as error:
        raise LookFailed(str(error)) from None
    except ssl.SSLCertVerificationError as error:
        return Found(wrong=f"the certificate is not trusted: {error.verify_message}", unit=Unit.DAYS)
    except _HandshakeFailed as error:
        return Found(wrong=str(error), unit=Unit.DAYS)
    except TimeoutError:
        raise LookFailed(f"no handshake within {asked.timeout_s:g} s") from None
    except OSError as error:
        raise LookFailed(f"{check.host}:{check.port}: {error}") from None
    try:
        spoken = writer.get_extra_info("ssl_object")
        raw, version = spoken.getpeercert(binary_form=True), spoken.version()
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(1):
                await writer.wait_closed()
    certificate = x509.load_der_x509_certificate(raw)
    ends = certificate.not_valid_after_utc
    days = (ends - asked.now).total_seconds() / 86_400
    names = names_of(certificate)
    output = f"{version}\nends {ends.isoformat()}\nnames {' '.join(names)}\nserial {certificate.serial_number:x}\n"
    missing = [name for name in check.names if not any(covers(pattern, name) for pattern in names)]
    return Found(
        days,
        Unit.DAYS,
        f"{version}, {days:.1f} days left",
        output.encode(),
        wrong=f"the certificate is not for {', '.join(missing)}" if missing else "",
    )


class _HandshakeFailed(Exception):
    """The server is there, and does not shake hands as it should."""


async def _shake(writer: asyncio.StreamWriter, context: ssl.SSLContext, host: str) -> None:
    try:
        await writer.start_tls(context, server_hostname=host)
    except ssl.SSLCertVerificationError:
        raise
    except (ssl.SSLError, ConnectionError) as error:
        told = getattr(error, "reason", "") or "the server ends it"
        raise _HandshakeFailed(f"the handshake fails: {told}") from None
    finally:
        if writer.get_extra_info("ssl_object") is None:
            writer.close()


def names_of(certificate: x509.Certificate) -> list[str]:
    """The host names and addresses a certificate is for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return [name.lower() for name in found.get_values_for_type(x509.DNSName)] + addresses


def covers(pattern: str, name: str) -> bool:
    """Whether a name of a certificate is for ``name`` (RFC 9525: a wildcard stands for one whole label)."""
    name = name.lower()
    if pattern.startswith("*."):
        return name.partition(".")[2] == pattern[2:]
    return pattern == name
