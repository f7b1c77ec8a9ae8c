"""Writes the rules files of deploy/prometheus; ``--check`` tells whether they are up to date."""

from __future__ import annotations

import sys
from pathlib import Path

TARGET = Path(__file__).parent.parent / "deploy" / "prometheus"


def wanted() -> dict[str, str]:
    """Every file by name, as it should be."""
    import bailiwick.assurance
    from bailiwick.assurance.alert_rules import files
    from bailiwick.assurance.book import check, read_text
    from bailiwick.assurance.slo.levels import levels_of
    from bailiwick.assurance.slo.openslo import DATA_SOURCE, SLO
    from bailiwick.assurance.slo.rules import rules_file

    text = (Path(bailiwick.assurance.__path__[0]) / "shipped" / "slo.yaml").read_text()
    documents = [each for each in read_text(text, "slo.yaml") if each.kind == "SLO"]
    book = check("default", documents, {"SLO": SLO, "DataSource": DATA_SOURCE})
    return files() | {"slo.rules.yml": rules_file(levels_of(book))}


def main() -> int:
    """Write, or with ``--check`` exit 1 where a file is stale."""
    check = "--check" in sys.argv
    stale = [
        name for name, text in wanted().items()
        if not (TARGET / name).is_file() or (TARGET / name).read_text() != text
    ]  # fmt: skip
    if not check:
        for name, text in wanted().items():
            (TARGET / name).write_text(text)
    elif stale:
        print(f"stale: {', '.join(stale)}; run python tools/alert_rules.py")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
