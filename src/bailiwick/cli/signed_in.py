"""What only a signed-in person may do is done through the API, also from the command line.

The token is that of a sign-in, in ``$BAILIWICK_TOKEN``: whoever has the machine is not thereby the second person.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed
from bailiwick.cli.options import existing_layout

TOKEN = "BAILIWICK_TOKEN"  # noqa: S105 - its name
URL = "BAILIWICK_URL"
_LIMIT_S = 60


def ask_api(
    data_dir: Path | None,
    zone: str,
    method: str,
    path: str,
    body: dict[str, Any] | bytes | None = None,
    content_type: str = "application/json",
) -> Any:
    """The JSON that the API answers in the name of whoever signed in. A refusal ends the command with its reason.

    ``body``: JSON, or bytes that are sent as they are, of the type ``content_type``.
    The address is ``$BAILIWICK_URL``, else that of the installation on this machine.
    """
    import ssl
    import urllib.error
    import urllib.request

    token = os.environ.get(TOKEN)
    if not token:
        raise CommandFailed(USAGE, f"this takes a signed-in person: put the token of a sign-in into ${TOKEN}")
    base = os.environ.get(URL) or _address(data_dir)
    if not base.startswith(("http://", "https://")):
        raise CommandFailed(USAGE, f"${URL} is no http or https address")
    url = base.rstrip("/") + ("" if zone == "default" else f"/z/{zone}") + path
    request = urllib.request.Request(  # noqa: S310 - the scheme was looked at
        url,
        method=method,
        data=body if body is None or isinstance(body, bytes) else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": content_type},
    )
    try:
        with urllib.request.urlopen(request, timeout=_LIMIT_S, context=ssl.create_default_context()) as answer:  # noqa: S310
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        raise CommandFailed(NO_DATA if error.code == 404 else FAILED, _told(error.read(), error.code)) from None
    except (OSError, ValueError) as error:
        raise CommandFailed(FAILED, f"{base} does not answer: {error}") from None


def _told(body: bytes, status: int) -> str:
    try:
        problem = json.loads(body)
        return f"{problem['reason']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"the API answered {status}"


def _address(data_dir: Path | None) -> str:
    layout = existing_layout(data_dir)
    try:
        running = json.loads(layout.settings_file.read_text())
        return str(running.get("public_url") or f"http://127.0.0.1:{running['api_port']}")
    except (OSError, ValueError, KeyError):
        raise CommandFailed(NO_DATA, f"nothing is running on {layout.data_dir}; set ${URL}") from None
