#!/bin/sh
# Put a snapshot of Redis with the backups. Options: --place URL, --data-dir DIR.
# Exits 0 when it is there, 1 when it could not be made, 2 for bad options, 3 where there is no Redis.
set -eu
exec ${BAILIWICK:-bailiwick} backup redis "$@"
