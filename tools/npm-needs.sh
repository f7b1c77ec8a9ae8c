#!/usr/bin/env bash
# Installs what the tests run on Node, exactly as locked, into a cache beside the repository; prints where it is.
set -euo pipefail
here=$(cd "$(dirname "$0")/../tests/node" && pwd)
if ! command -v npm >/dev/null; then
  echo "The tests need Node 20 or later with npm." >&2
  exit 2
fi
digest=$(cat "$here/package.json" "$here/package-lock.json" | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/bailiwick-tests
place=$cache/node-$digest
if [ ! -e "$place/complete" ]; then
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9
  if [ ! -e "$place/complete" ]; then
    rm -rf "$place" && mkdir -p "$place"
    cp "$here/package.json" "$here/package-lock.json" "$place/"
    (cd "$place" && npm ci --ignore-scripts --no-audit --no-fund --silent >&2)
    touch "$place/complete"
  fi
fi
echo "$place"
