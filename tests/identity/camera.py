"""What the camera of a phone makes of a picture: the text of the QR code in it, read by ZBar."""

from __future__ import annotations

import base64
import subprocess
import tempfile

PREFIX = "data:image/png;base64,"


def seen_by_a_camera(data_uri: str) -> str:
    """The text in the PNG of a ``data:`` URI."""
    assert data_uri.startswith(PREFIX), data_uri[:40]
    with tempfile.NamedTemporaryFile(suffix=".png") as picture:
        picture.write(base64.b64decode(data_uri.removeprefix(PREFIX)))
        picture.flush()
        command = ["zbarimg", "--quiet", "--raw", "-Sbinary", picture.name]
        return subprocess.run(command, capture_output=True, check=True, timeout=30).stdout.decode()
