"""A company's directory connected to a whole installation: tested by command, and people signed in."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import Stack, call, installation

sys.path.insert(0, str(Path(__file__).parent.parent / "identity"))
import slapd as directory


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(WORKERS="2") as made:
        yield made


def test_the_seeds_call_signs_in_and_the_command_says_what_works(stack: Stack, tmp_path: Path) -> None:
    with directory.running(ldif=directory.content(people=0)) as made:
        options = {
            "urls": [f"ldaps://127.0.0.1:{made.ldaps_port}"],
            "ca": made.authority.pem,
            "bind_dn": directory.READER,
            "base_dn": directory.BASE,
            "roles": {directory.cn("engineers"): "operator"},
        }
        secrets = {"bind_password": directory.READER_WORD}
        for name, value in secrets.items():
            (tmp_path / name).write_text(f"{value}\n")
        spec = {"type": "ldap", "options": options, "secrets": {name: {"file": name} for name in secrets}}
        document = {
            "apiVersion": "bailiwick/v1",
            "kind": "IdentityProvider",
            "metadata": {"name": "corp"},
            "spec": spec,
        }
        file = tmp_path / "providers.yaml"
        file.write_text(json.dumps(document))  # which is YAML too
        planned = stack.cli("idp", "apply", str(file), "--plan", "--json")
        assert planned.returncode == 0, planned.stdout + planned.stderr
        assert [each["what"] for each in json.loads(planned.stdout)["providers"]] == ["create"]
        assert stack.admin("GET", "/api/v1/identity-providers").json["items"] == []
        for what in ("created", "unchanged"):
            applied = stack.cli("idp", "apply", str(file))
            assert (applied.returncode, applied.stdout.split()[:2]) == (0, [what, "corp"]), applied.stderr
            assert directory.READER_WORD not in applied.stdout
        (tmp_path / "bind_password").unlink()
        wrong = stack.cli("idp", "apply", str(file))
        assert wrong.returncode == 2 and "cannot be read" in wrong.stderr
        words = {"username": "jane", "password": directory.WORD}
        for _ in range(6):  # at either worker; the token counts at once, wherever it is shown
            signed_in = call("POST", f"{stack.api}/api/v1/auth/login/ldap", body=words)
            assert signed_in.status == 200, signed_in
            me = call("GET", f"{stack.api}/api/v1/auth/me", token=signed_in.json["access_token"])
            assert (me.status, me.json["role"]) == (200, "operator"), me
        lone = call("POST", f"{stack.api}/api/v1/auth/login/ldap", body={**words, "username": "lone"})
        token = lone.json["access_token"]
        assert lone.json["user"]["role"] == "none"
        assert call("GET", f"{stack.api}/api/v1/auth/me", token=token).json["role"] == "none"
        for path in ("servers", "policies", "sessions", "audit/events"):
            assert call("GET", f"{stack.api}/api/v1/{path}", token=token).status == 403, path
        question = {"user_id": "lone", "resource": "servers", "action": "read"}
        decided = call("POST", f"{stack.api}/api/v1/authz/evaluate", token=token, body=question)
        assert decided.status == 403 or decided.json["allowed"] is False, decided

        word = tmp_path / "word"
        word.write_text(directory.WORD + "\n")
        told = stack.cli("idp", "test", "corp", "--username", "jane", "--password-file", str(word), "--json")
        assert told.returncode == 0, told.stdout + told.stderr
        assert json.loads(told.stdout)["verdict"] == "PASS"
        assert directory.WORD not in told.stdout
    # a directory that is out is told of, and takes nothing out of rotation
    assert call("POST", f"{stack.api}/api/v1/auth/login/ldap", body=words).status == 503
    (away,) = call("GET", f"{stack.api}/health/detailed").json["providers_away"]
    assert (away["zone"], away["name"], away["kind"]) == ("default", "corp", "ldap") and away["since"]
    assert call("GET", f"{stack.api}/health/detailed").json["status"] == "healthy"
    assert call("GET", f"{stack.api}/health/ready").status == 200
    gone = stack.cli("idp", "test", "corp")
    assert gone.returncode == 1 and "FAIL  connect" in gone.stdout, gone.stdout + gone.stderr
    assert stack.cli("idp", "test", "nowhere").returncode == 2
    events = stack.admin("GET", "/api/v1/audit/events?code=BW1404&limit=10")
    assert events.status == 200 and len(events.json["events"]) == 2, events
