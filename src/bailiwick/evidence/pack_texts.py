"""What a pack says to the person who opens it: an index as a page, and how to check everything, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_MOST_LISTED = 2000
_TILES = "log/tile/"

_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1b1b}"
    "table{border-collapse:collapse;width:100%;margin:1rem 0}td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem;"
    "text-align:left;vertical-align:top}code{font-size:.85em;word-break:break-all}"
)


def index_html(facts: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> str:
    """The index as a page without script, image or link beyond the pack."""
    selection = facts["selection"]
    windows = [f"{each['since']} to {each['until']}" for each in selection["windows"]]
    about = [
        ("zone", facts["zone"]),
        ("of", selection["name"] or "the requests and windows below"),
        ("requests", ", ".join(selection["requests"]) or "none named"),
        ("windows", "; ".join(windows) or "none named"),
        ("events", f"{facts['events']['count']:,}"),
        ("built", f"{facts['built_at']} by {facts['built_by']}, bailiwick {facts['version']}"),
        ("log", facts["origin"]),
    ]
    if facts["simulated_clock"]:
        about.append(("clock", "simulated: this pack proves nothing about the world"))
    shown = [each for each in files if not each["path"].startswith(_TILES)][:_MOST_LISTED]
    tiles = len(files) - len([each for each in files if not each["path"].startswith(_TILES)])
    rows = "".join(_file_row(each) for each in shown)
    more = f"<p>{tiles:,} tiles of the tree stand below <code>{_TILES}</code>; index.json lists every file.</p>"
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Evidence pack {escape(facts['pack'])}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Evidence pack {escape(facts['pack'])}</h1>"
        "<p>This page proves nothing by itself. README.md tells how to check the pack.</p>"
        f"<table>{''.join(f'<tr><th>{name}</th><td>{escape(str(value))}</td></tr>' for name, value in about)}</table>"
        "<h2>Sections</h2><table><tr><th>folder</th><th>what is in it</th><th>verdict</th><th>note</th></tr>"
        f"{''.join(_section_row(each) for each in facts['sections'])}</table>"
        f"<h2>Files</h2><table><tr><th>file</th><th>bytes</th><th>window</th><th>verdict</th><th>SHA-256</th></tr>"
        f"{rows}</table>{more}</body></html>\n"
    )


def _section_row(section: Mapping[str, Any]) -> str:
    cells = (section["name"] + "/", section["about"], section["verdict"] or "–", section["note"])
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _file_row(file: Mapping[str, Any]) -> str:
    path, window = escape(file["path"]), file["window"]
    span = f"{window['since'][:19]}Z to {window['until'][:19]}Z" if window else ""
    return (
        f'<tr><td><a href="{path}">{path}</a></td><td>{file["size"]:,}</td><td>{escape(span)}</td>'
        f"<td>{escape(file['verdict'] or '–')}</td><td><code>{escape(file['sha256'])}</code></td></tr>"
    )


def readme(facts: Mapping[str, Any]) -> str:
    """How an auditor checks the pack, and what that proves."""
    sections = "\n".join(
        f"| `{each['name']}/` | {_cell(each['about'])} | {each['verdict'] or '–'} | {_cell(each['note'])} |"
        for each in facts["sections"]
    )
    simulated = (
        "\n**The clock that this pack was made under was simulated. It proves nothing about the world.**\n"
        if facts["simulated_clock"]
        else ""
    )
    return f"""\
# Evidence pack {facts["pack"]}

{facts["events"]["count"]:,} events of zone `{facts["zone"]}`, taken at {facts["built_at"]} out of a log of
{facts["tree"]["size"]:,}. What was asked for stands under `selection` in `manifest.json`.
{simulated}
## Check it

Nothing here needs the installation that made the pack, or a network.

1. **Get the verifier key from somewhere else than this pack**: from whoever runs the installation, over a way you
   trust, once. It is a line that begins with `{facts["origin"]}+`. The keys in `log/verifier-keys` are a convenience;
   a forger would put his own there.
2. Install the verifier: `pip install bailiwick-verify`. It is a distribution of its own of a few hundred lines, needs
   `cryptography` only, and imports nothing of the server.
3. Run it on the ZIP file as you got it:

       bailiwick-verify pack FILE.zip --key KEYFILE

   It exits 0 and says PASS when all of the following holds; 1 and names the first bad file when something does not;
   3 when the pack is genuine and holds no events.

   - `manifest.note` is signed by the key, and `manifest.json` is what it signs.
   - The archive holds exactly the files of the manifest, each with its SHA-256 and size: none missing, none added.
   - `log/checkpoint` is a head of the log that the key signed; with `--witness` and `--quorum`, that others saw too.
   - The tiles below `log/tile/` give the root that the head signs (RFC 6962), and each event of `events/events.jsonl`
     is what stands in the tree at the position of the same line in `events/positions.txt`.
   - The heads in `heads/` are genuine and contradict neither each other nor the checkpoint.
   - Receipts, evidence records and decision inputs are what their hashes say.

## By hand

- A file: `sha256sum` it and look it up in `manifest.json`.
- The manifest: the third line of `manifest.note` is its SHA-256. The signature is Ed25519 over the text before the
  empty line (C2SP signed note).
- An event: the SHA-256 of a zero byte and the line, without its line feed, is the 32 bytes at offset
  `(position % 256) * 32` of the tile `position // 256` at level 0 (C2SP tlog-tiles).

## What it proves, and what not

That these events were in the log under the signed head, unchanged; that the log of then is a beginning of the log of
the head; that the pack is as it was built. It does not prove that no other event of the same requests or windows
exists: for that hold the whole log against the head (`bailiwick audit export`, `bailiwick-verify export`). What is not
in the ledger (configuration, policies, tables, timeline, logs) is what the installation said at {facts["built_at"]},
in one consistent transaction, and is signed as such.

Secrets are left out: no password, key, token, or sealed value is in here. {facts["events"]["unsigned"]:,} events of
what was asked for came after the head and are not in the pack.

## What is in it

| folder | what | verdict | note |
|---|---|---|---|
{sections}
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
