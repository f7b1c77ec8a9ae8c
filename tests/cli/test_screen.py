"""What people are shown: within 80 columns, and never broken within a word."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bailiwick.cli.failure import CommandFailed
from bailiwick.cli.screen import cut, lines, moment, shown, table, told

NOW = datetime(2026, 2, 2, 9, tzinfo=UTC)
ID = "018f4e6a-7c1d-7bb4-9a53-1f5d2c9e4b70"


def test_words_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["siem-dead-letters", "NO_DATA", 12, 0, 0, 0, "audit-archival"], ["jobs", "PASS", 1, 0, 0, 0, "stuck-jobs"]]
    table(["machine", "verdict", "fine", "near", "stuck", "critical", "owner"], rows)
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert {"siem-dead-letters", "NO_DATA", "critical", "audit-archival", "stuck-jobs"} <= set(out.split())


def test_long_texts_wrap_between_words_and_long_words_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    summary = "payments of the shop are down since the certificate of its bank ran out in the night"
    table(["alert", "since", "what", "id"], [["P1 firing", NOW, f"{summary} {'x' * 90}", ID]])
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert set(summary.split()) | {ID} <= set(out.split())
    assert "x…" in out and "x" * 60 not in out


def test_an_id_is_whole_however_little_room_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    table(["one", "other", "third"], [[ID, ID, ID]])
    assert capsys.readouterr().out.split().count(ID) == 3


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    table(["a"], [["\x1b[31mred"]])
    assert "\x1b" not in capsys.readouterr().out + cut("\x1b[0m") + lines("\x1b\nb") + told(["\x1b"])
    assert cut("a" * 100) == "a" * 79 + "…"
    assert (told(None), told(0.12345), told(NOW), told([1, "b"])) == ("-", "0.123", "02-02 09:00", "1, b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-02-01T09:00:00Z", "Sun 2026-02-01 09:00Z"),
        ("2026-02-01T09:00:00", "Sun 2026-02-01 09:00Z"),
        ("2026-02-01T09:00:00+02:00", "Sun 2026-02-01 07:00Z"),
        ("90m", "Mon 2026-02-02 10:30Z"),
        ("+1w", "Mon 2026-02-09 09:00Z"),
    ],
)
def test_instants(text: str, expected: str) -> None:
    assert shown(moment(text, now=NOW)) == expected


@pytest.mark.parametrize("text", ["soon", "1y", "0999-01-01T00:00:00Z", ""])
def test_what_is_no_instant_ends_the_command(text: str) -> None:
    with pytest.raises(CommandFailed, match="--at"):
        moment(text, option="--at", now=NOW)
    with pytest.raises(CommandFailed):
        moment("8h")
