"""The house keeps its own rules."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "bailiwick"
LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    # its own environment: the package under test is the one in `directory`
    command = [str(LINT_IMPORTS), "--config", str(directory / "pyproject.toml"), "--no-cache"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(directory / "src")}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)


def test_rooms_use_only_the_rooms_below_them() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


def test_a_room_that_reaches_up_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    clock = tmp_path / "src" / "bailiwick" / "kernel" / "clock.py"
    clock.write_text(clock.read_text() + "\nfrom bailiwick.gateway import check as check  # noqa\n")
    done = lint_imports(tmp_path)
    assert done.returncode != 0 and "BROKEN" in done.stdout, done.stdout + done.stderr


def test_no_base_http_middleware_and_no_endless_file() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert "BaseHTTPMiddleware" not in text, path
        assert len(text.splitlines()) <= 650, f"{path} has become two files"


def test_reference_pages_are_what_the_code_says() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "docs.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_reason_code_is_documented() -> None:
    from bailiwick.kernel.errors import REASONS

    page = (ROOT / "docs" / "reference" / "reason-codes.md").read_text()
    assert not [name for name in REASONS if f"| `{name}` |" not in page]


def _reasons_named_in(text: str) -> set[str]:
    """The reason codes that a module's source names: as ``reason=``, ``default_reason =``, or by the policy room's form."""
    named = set(re.findall(r'\b(?:reason=|default_reason = )"([a-z_]+)"', text))
    return named | set(re.findall(r'"(policy_[a-z_]+)"', text))


def test_every_reason_that_the_code_answers_is_registered() -> None:
    from bailiwick.kernel.errors import REASONS

    no_reasons = {"policy_input", "policy_set", "policy_sets", "policy_name", "policy_version", "policy_revision"}
    no_reasons |= {"policy_versions", "policy_activations"}  # tables
    named = {
        (path.name, name)
        for path in SOURCE.rglob("*.py")
        for name in _reasons_named_in(path.read_text())
        if name not in no_reasons
    }
    assert len({name for _, name in named}) > 60, "the search finds nothing any more"
    assert not sorted(each for each in named if each[1] not in REASONS)
    assert _reasons_named_in('Finding(f, 1, "policy_unheard_of", m); Denied(reason="nor_this")') == {
        "policy_unheard_of",
        "nor_this",
    }


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / "docs").rglob("*.md")], ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n") and "## [Unreleased]" in text


def test_make_names_what_the_readme_promises() -> None:
    told = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    for target in re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text()):
        assert re.search(rf"^\s+{target}\b", told, re.M), target


def test_no_two_test_files_have_the_same_name() -> None:
    # pytest imports them by their bare names: the second is not collected wherever both meet in one process
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)


def loaded(tool: str) -> Any:
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(tool, ROOT / "tools" / f"{tool}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SHAKY = """
import pathlib, pytest
HERE = pathlib.Path(__file__).parent
@pytest.mark.parametrize("n", range(COUNT))
def test_shaky(n):
    mark = HERE / f"mark{n}"
    fresh = not mark.exists()
    mark.touch()
    assert not fresh or not FAILS
def test_wrong(): assert not WRONG
def test_right(): ...
"""


@pytest.mark.parametrize(
    ("shaky", "fails", "wrong", "code"),
    [(2, True, False, 0), (1, True, True, 1), (4, True, False, 1), (0, False, False, 0)],
)
def test_only_a_few_that_pass_alone_are_forgiven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], shaky: int, fails: bool,
    wrong: bool, code: int,
) -> None:  # fmt: skip
    run_tests = loaded("run_tests")
    text = SHAKY.replace("COUNT", str(shaky)).replace("FAILS", str(fails)).replace("WRONG", str(wrong))
    (tmp_path / "test_made.py").write_text(text)
    monkeypatch.setattr(run_tests, "ROOT", tmp_path)
    monkeypatch.setattr(run_tests, "_LAST_FAILED", tmp_path / ".pytest_cache" / "v" / "cache" / "lastfailed")
    monkeypatch.setattr(run_tests, "report_coverage", lambda: 0)
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # as unmeasured() does
    monkeypatch.setattr(sys, "argv", ["run_tests", "--cores", "2", "-c", "/dev/null", "--rootdir", str(tmp_path)])
    assert run_tests.main() == code
    said = capfd.readouterr().out
    assert ("passed alone: " in said) is (code == 0 and shaky > 0)
    assert ("once more, alone" in said) is (0 < shaky + wrong < 4)


def test_what_failed_is_told_again_at_the_end_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "test_on_purpose.py").write_text(
        "import pytest\n"
        "@pytest.fixture\ndef broken(): raise RuntimeError('a fixture')\n"
        "def deep(n):\n    assert n, 'deep down'\n    return deep(n - 1)\n"
        "def test_fails(): deep(40)\n"
        "def test_errors(broken): ...\n"
        "def test_passes(): ...\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    run_tests = loaded("run_tests")
    told = run_tests.Told()
    for line in done.stdout.splitlines(keepends=True):
        told.read(line)
    again = list(told.again())
    assert again[-1] == done.stdout.splitlines()[-1] and again[-1].startswith("1 failed, 1 passed, 1 error in ")
    assert [line.split(" ")[0] for line in again[-3:-1]] in (["FAILED", "ERROR"], ["ERROR", "FAILED"])
    for why in ("AssertionError: deep down", "RuntimeError: a fixture"):
        assert any(line.startswith("E  ") and line.endswith(why) for line in again), why
    assert again.index("----- test_fails") > again.index("----- ERROR at setup of test_errors")
    assert len(again) < 2 * 30 + 10, "of each the end of its traceback"
