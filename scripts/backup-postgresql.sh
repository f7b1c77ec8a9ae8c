#!/bin/sh
# Back the database up now and read every object of the backup again. Options: --place URL, --data-dir DIR.
# Exits 0 when the backup is whole, 1 when it is not, 2 for bad options.
set -eu
bailiwick=${BAILIWICK:-bailiwick}
$bailiwick backup run "$@"
$bailiwick backup verify "$@"
