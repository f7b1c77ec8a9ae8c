"""Object storage over the S3 API: gzipped JSON lines, one object a batch.

An object is named after the run of the ledger it holds, so a repeat overwrites what it repeats. botocore signs; the
request goes out through the same client as every other, so that addresses are checked and pinned alike. Credentials are
those of the sink and never those of the machine: whoever may make a sink must not get to act as the host.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from bailiwick.evidence.siem.destination import Batch, Refused, Retry, Stop
from bailiwick.evidence.siem.options import Certificates, Timeout, Token, Url, host_and_port, printable
from bailiwick.evidence.siem.outgoing import Means, Outgoing, judge
from bailiwick.kernel.fields import Body

_PASSING = ("RequestTimeout", "OperationAborted", "SlowDown", "InternalError")

Bucket = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
Prefix = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]*/)*$", max_length=300)]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")]


class S3Options(Body):
    """Where the bucket is. With ``endpoint`` another service than AWS is meant, addressed by path."""

    bucket: Bucket
    region: Region = "us-east-1"
    endpoint: Url | None = None
    prefix: Prefix = "bailiwick/"
    encryption: Literal["AES256", "aws:kms"] | None = None
    kms_key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9:/_-]{1,300}$")] | None = None
    timeout_s: Timeout = 60.0
    ca: Certificates = ""

    @model_validator(mode="after")
    def _coherent(self) -> S3Options:
        if self.kms_key is not None and self.encryption != "aws:kms":
            raise ValueError("kms_key goes with aws:kms")
        if self.endpoint is None and "." in self.bucket:
            raise ValueError("a bucket with a dot in its name has no certificate; name the endpoint")
        return self

    @property
    def base(self) -> str:
        """The URL that keys are put behind."""
        if self.endpoint is not None:
            return f"{self.endpoint}/{self.bucket}"
        return f"https://{self.bucket}.s3.{self.region}.amazonaws.com"

    @property
    def leads_to(self) -> tuple[str, int]:
        """Host and port."""
        return host_and_port(self.base)


class S3Secrets(Body):
    """An access key that may put objects, and nothing else."""

    access_key_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{3,128}$")]
    secret_access_key: Annotated[SecretStr, Field(min_length=1, max_length=512), AfterValidator(printable)]
    session_token: Token | None = None


class S3:
    """One sink's bucket. The object that was put is the acknowledgement."""

    max_bytes = 32 << 20
    max_events = 10_000
    window = 1

    def __init__(self, options: S3Options, secrets: S3Secrets, means: Means) -> None:
        from botocore.credentials import Credentials  # here, so that who has no such sink does not load it

        self._options = options
        self._means = means
        token = secrets.session_token.get_secret_value() if secrets.session_token else None
        self._credentials = Credentials(secrets.access_key_id, secrets.secret_access_key.get_secret_value(), token)
        self._http = Outgoing(means.reach, timeout_s=options.timeout_s, ca=options.ca)

    async def send(self, batch: Batch) -> None:
        """See :class:`~bailiwick.evidence.siem.destination.Destination`."""
        url = f"{self._options.base}/{self.key(batch)}"
        body, headers = await asyncio.to_thread(self._signed, url, batch)
        answer = await self._http.post(url, body, headers, method="PUT")
        text = answer.body.decode("utf-8", "replace")
        if any(f"<Code>{code}</Code>" in text for code in _PASSING):
            raise Retry(f"{answer.status} {answer.told()}")
        try:
            judge(answer, self._means.clock.now())
        except Refused as refused:
            raise Stop(str(refused)) from None  # an object store looks at no event

    async def close(self) -> None:
        """Let go of connections."""
        await self._http.close()

    def key(self, batch: Batch) -> str:
        """``<prefix><zone>/<year>/<month>/<day>/<first>-<last>.jsonl.gz``: the first event's day, ledger places."""
        day = batch.items[0].at.strftime("%Y/%m/%d")
        return f"{self._options.prefix}{batch.zone}/{day}/{batch.first:020d}-{batch.end - 1:020d}.jsonl.gz"

    def _signed(self, url: str, batch: Batch) -> tuple[bytes, dict[str, str]]:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        body = gzip.compress(b"".join(item.body + b"\n" for item in batch.items), 6, mtime=0)
        headers = {
            "Content-Type": "application/gzip",
            "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(body).digest()).decode(),
        }
        if self._options.encryption is not None:
            headers["x-amz-server-side-encryption"] = self._options.encryption
        if self._options.kms_key is not None:
            headers["x-amz-server-side-encryption-aws-kms-key-id"] = self._options.kms_key
        request = AWSRequest(method="PUT", url=url, data=body, headers=headers)
        S3SigV4Auth(self._credentials, "s3", self._options.region).add_auth(request)
        return body, dict(request.headers.items())
