"""Writes the tables of docs/reference from the code, between markers, and the JSON Schemas; ``--check`` tells whether
they are up to date."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"


def settings() -> str:
    """Every setting with its environment variable, default and meaning."""
    from bailiwick.kernel.settings import Settings, shown_value

    lines = ["| environment variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        value = "" if field.is_required() else shown_value(field.get_default())
        default = "" if value in (None, [], "") else f"`{value}`"
        lines.append(f"| `BAILIWICK_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines)


def reason_codes() -> str:
    """Every reason code with its status and meaning."""
    from bailiwick.kernel.errors import REASONS

    lines = ["| reason | status | meaning |", "|---|---|---|"]
    return "\n".join(lines + [f"| `{name}` | {each.status} | {each.meaning} |" for name, each in REASONS.items()])


def permissions() -> str:
    """The permission matrix."""
    from bailiwick.kernel.permissions import matrix

    return matrix().strip()


def events() -> str:
    """Every event code, and what it is in OCSF and ECS."""
    from bailiwick.evidence.codes import EVENT_TYPES
    from bailiwick.evidence.mapping import MAPPING

    lines = [
        "| code | name | change of state | OCSF class | OCSF activity | severity | ECS category | ECS type |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for event in sorted(EVENT_TYPES.values(), key=lambda each: each.code):
        mapped = MAPPING[event]
        severity = mapped.severity.name.lower()
        if mapped.failed != mapped.severity:
            severity += f", if it failed {mapped.failed.name.lower()}"
        lines.append(
            f"| {event.code} | `{event.name}` | {'yes' if event.mutation else 'no'} | {mapped.ocsf.uid}"
            f" {mapped.ocsf.name} | {mapped.activity} | {severity} | {', '.join(mapped.categories)}"
            f" | {', '.join(mapped.types)} |"
        )
    return "\n".join(lines)


def event_details() -> str:
    """What each event code says in its details."""
    from bailiwick.evidence.details import DETAILS

    lines = ["| code | detail | type | stands | meaning |", "|---|---|---|---|---|"]
    for event, fields in sorted(DETAILS.items(), key=lambda item: item[0].code):
        for field in fields:
            stands = "always" if field.required else "sometimes"
            lines.append(f"| {event.code} | `{field.name}` | {field.type} | {stands} | {field.meaning} |")
    return "\n".join(lines)


def metrics() -> str:
    """Every metric."""
    from prometheus_client import CollectorRegistry

    from bailiwick.kernel.metrics import Metrics

    registry = CollectorRegistry()
    Metrics(registry)
    lines = ["| metric | type | meaning |", "|---|---|---|"]
    for family in sorted(registry.collect(), key=lambda each: each.name):
        suffix = "_total" if family.type == "counter" else ""
        lines.append(f"| `{family.name}{suffix}` | {family.type} | {family.documentation} |")
    return "\n".join(lines)


def commands() -> str:
    """Every command."""
    from bailiwick.cli.main import COMMANDS

    lines = ["| command | what it does |", "|---|---|"]
    return "\n".join(lines + [f"| `bailiwick {name}` | {e.help} |" for name, e in COMMANDS.items() if not e.hidden])


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "settings": ("settings.md", settings),
    "reason-codes": ("reason-codes.md", reason_codes),
    "permissions": ("permissions.md", permissions),
    "events": ("events.md", events),
    "event-details": ("events.md", event_details),
    "metrics": ("metrics.md", metrics),
    "commands": ("cli.md", commands),
}


def schemas() -> dict[Path, str]:
    """The JSON Schema of every kind of document of the operating model, by its file."""
    import json

    from bailiwick.app.assurance import KINDS
    from bailiwick.assurance.book import schema

    folder = REFERENCE / "schemas"
    return {folder / f"{kind.name}.json": json.dumps(schema(kind), indent=2, sort_keys=True) + "\n" for kind in KINDS}


def stale_schemas(check: bool) -> list[str]:
    """The schemas that were not up to date, those of kinds that are no more too; written unless ``check``."""
    wanted = schemas()
    found = {path: path.read_text() for path in (REFERENCE / "schemas").glob("*.json")}
    stale = sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))
    if not check:
        (REFERENCE / "schemas").mkdir(exist_ok=True)
        for path in stale:
            path.write_text(wanted[path]) if path in wanted else path.unlink()
    return [str(path.relative_to(ROOT)) for path in stale]


def written(name: str, text: str, table: str) -> str:
    """The page with the table put between its markers; raises ValueError where they are missing."""
    pattern = re.compile(rf"(<!-- generated:{name} -->\n).*?(<!-- end -->)", re.S)
    if not pattern.search(text):
        raise ValueError(f"markers of {name} are missing")
    return pattern.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


def main() -> int:
    """Write, or with ``--check`` exit 1 where a page is stale."""
    check = "--check" in sys.argv
    stale = stale_schemas(check)
    for name, (file, build) in TABLES.items():
        page = REFERENCE / file
        before = page.read_text()
        after = written(name, before, build())
        if before != after:
            stale.append(f"docs/reference/{file}: {name}")
            if not check:
                page.write_text(after)
    if stale:
        print(("stale, run `make docs`: " if check else "written: ") + ", ".join(stale))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
