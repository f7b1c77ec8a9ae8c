#!/bin/sh
# Takes an RDB snapshot of the Redis that BAILIWICK_REDIS_URL names and puts it with the backups. What stands in Redis
# here is counters and fan-out: it can be lost, and a restore needs none of it.
# Exits 0 when the snapshot is stored, 1 when not, 3 where no Redis is used.
set -eu
exec bailiwick backup redis "$@"
