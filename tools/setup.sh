#!/usr/bin/env bash
# Makes .venv from Python 3.11+ and PyPI alone, at exactly the versions of uv.lock.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: Python 3.11 or newer is needed; $("$python" --version) is $python (set PYTHON=)" >&2
  exit 2
}
if [ ! -x .venv/bin/python ]; then
  if ! "$python" -m venv .venv 2>/dev/null; then
    rm -rf .venv
    # Debian ships venv apart from Python
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      apt-get update -qq
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
      "$python" -m venv .venv
    else
      echo "setup: $python has no venv; install python3-venv" >&2
      exit 2
    fi
  fi
fi
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install -q --disable-pip-version-check uv
VIRTUAL_ENV=$PWD/.venv UV_PROJECT_ENVIRONMENT=$PWD/.venv .venv/bin/uv sync -q --locked --inexact
