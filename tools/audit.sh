#!/usr/bin/env bash
# Known vulnerabilities in the locked dependencies. What could not be looked up is said, never passed over as clean.
set -uo pipefail
cd "$(dirname "$0")/.."
locked=$(mktemp)
trap 'rm -f "$locked"' EXIT
.venv/bin/uv export -q --locked --no-emit-workspace --no-dev --no-hashes >"$locked" || exit 2
report=$(.venv/bin/pip-audit --progress-spinner off --disable-pip --no-deps -r "$locked" 2>&1)
code=$?
if grep -qE 'Found [0-9]+ known vulnerabilit' <<<"$report"; then
  echo "$report"
  exit 1
fi
skipped=$(grep -c 'could not be audited' <<<"$report")
if [ "$code" -ne 0 ] || [ "$skipped" -gt 0 ]; then
  [ "$skipped" -gt 0 ] || echo "$report" | tail -3
  echo "NOT AUDITED: the advisory service did not answer for $skipped dependencies; this run knows nothing about them."
  exit 0
fi
echo "$report"
