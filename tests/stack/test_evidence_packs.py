"""Evidence as people take it away: recorded by commands, packed over the API and by command, checked without the server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from urllib.request import Request, urlopen

from rig import CLI, UPSTREAM_KEY, Stack, installation


def taken(stack: Stack, identifier: str, to: Path) -> None:
    """The file of a pack, once it is built."""
    for _ in range(200):
        told = stack.admin("GET", f"/api/v1/evidence/packs/{identifier}").json
        if told["state"] not in {"requested", "building"}:
            break
        time.sleep(0.1)
    assert told["state"] == "built", told
    address = f"{stack.api}/api/v1/evidence/packs/{identifier}/file"
    with urlopen(Request(address, headers={"Authorization": f"Bearer {stack.token}"}), timeout=30) as answer:
        assert answer.headers["content-type"] == "application/zip"
        to.write_bytes(answer.read())


def checked(stack: Stack, pack: Path, keys: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "bailiwick_verify.cli", "pack", str(pack), "--key", str(keys), "--json"]
    done = subprocess.run(command, env=stack.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_evidence_is_recorded_packed_and_checked(tmp_path: Path) -> None:
    with installation(WORKERS="1") as stack:
        stack.govern("pay")
        token = stack.token_for("pay-agent", "pay")
        governed = stack.governed(token, "/s/pay/items")
        assert governed.status == 200
        request = governed.headers["x-request-id"]
        stack.story(request)
        probe = [
            *CLI,
            "evidence",
            "record",
            "--check",
            "disk.space",
            "--json",
            "--",
            "echo",
            f"password={UPSTREAM_KEY}",
        ]
        environment = {**stack.environment, "BAILIWICK_DATA_DIR": str(stack.data_dir)}
        done = subprocess.run(probe, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        record = json.loads(done.stdout)["id"]
        assert stack.admin("GET", f"/api/v1/evidence/records/{record}").json["verdict"] == "PASS"

        keys = tmp_path / "keys"
        with urlopen(f"{stack.api}/evidence/default/verifier-keys", timeout=30) as answer:
            keys.write_bytes(answer.read())
        wanted = {
            "requests": [request],
            "windows": [{"since": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"}],
            "inputs": True,
        }
        asked = stack.admin("POST", "/api/v1/evidence/packs", wanted)
        assert asked.status == 202, asked
        taken(stack, asked.json["id"], tmp_path / "all.zip")
        report = checked(stack, tmp_path / "all.zip", keys)
        assert report["verdict"] == "PASS" and int(str(report["events"])) > 5

        out = tmp_path / "request.zip"
        made = stack.cli("evidence", "pack", "--request", request, "-o", str(out))
        assert made.returncode == 0, made.stdout + made.stderr
        assert int(str(checked(stack, out, keys)["events"])) >= 1
        refused = stack.cli("evidence", "pack", "--incident", "INC-1", "-o", str(out))
        assert refused.returncode == 3 and "no such incident" in refused.stderr
        opened = stack.admin("POST", "/api/v1/incidents", {"title": "a drill", "severity": "P3"})
        assert (opened.status, opened.json["name"]) == (201, "INC-1"), opened
        preserving = stack.admin("POST", "/api/v1/incidents/INC-1/preserve")
        taken(stack, preserving.json["pack"], tmp_path / "incident.zip")
        assert int(str(checked(stack, tmp_path / "incident.zip", keys)["events"])) > 5
        with zipfile.ZipFile(tmp_path / "incident.zip") as whole:
            assert "control/incidents.jsonl" in whole.namelist() or any("incidents" in n for n in whole.namelist())
        preserved = stack.admin("POST", "/api/v1/incidents/INC-1/preserve").json
        assert preserved["preserved_at"], preserved

        secrets = [UPSTREAM_KEY, token, stack.token, (stack.data_dir / "secrets" / "kek").read_text().split()[1]]
        secrets += [agent["client_secret"] for agent in stack.agents.values()]
        with zipfile.ZipFile(tmp_path / "all.zip") as archive:
            for name in archive.namelist():
                data = archive.read(name)
                assert not [each for each in secrets if each.encode() in data], name
            sections = {each["name"]: each for each in json.loads(archive.read("manifest.json"))["sections"]}
            assert record in archive.read("records/records.jsonl").decode()
        # the installation's own probes record what they find, and may have found this machine busy
        others = [each for name, each in sections.items() if name != "records"]
        assert not [each for each in others if each["verdict"] not in (None, "PASS")], sections
        assert "policy" in sections and sections["logs"]["note"].split()[0] != "0"
