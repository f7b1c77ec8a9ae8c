#!/bin/sh
# What is looked at every morning: parts, probes, jobs, backups, drills, alerts. Prints all of it, and exits 1 when
# anything is not as it should be, 3 when something is not known, 0 when all is well.
set -u
worst=0
note() {
    case "$1" in
    0) ;;
    3) [ "$worst" -eq 0 ] && worst=3 ;;
    *) worst=1 ;;
    esac
}
for check in "status" "probe list" "backup list" "drill list" "alerts list"; do
    echo "== bailiwick $check"
    # shellcheck disable=SC2086 # a verb and its noun
    bailiwick $check
    note $?
done
exit "$worst"
