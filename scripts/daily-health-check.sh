#!/bin/sh
# The morning look at an installation: its parts, what fires, backups, service levels, work that stands still.
# Options are those that every command takes, as --data-dir DIR. BAILIWICK names the command where it is not on the path.
# Exits 0 when everything is as it should be, 1 when something is not, 2 for bad options, 3 when something is not known.
set -u
bailiwick=${BAILIWICK:-bailiwick}
worst=0

look() {
    title=$1
    shift
    printf '== %s\n' "$title"
    $bailiwick "$@"
    code=$?
    case $code in
        0 | 3) ;;
        2) ;;
        *) code=1 ;;
    esac
    printf '   exit %s\n' "$code"
    # what is wrong weighs more than what is not known
    case $code in
        1) worst=1 ;;
        2) [ "$worst" -eq 1 ] || worst=2 ;;
        3) [ "$worst" -ne 0 ] || worst=3 ;;
    esac
}

look 'parts and readiness' status "$@"
look 'alerts' alerts list "$@"
look 'probes and objectives' assurance status "$@"
look 'backups' backup list "$@"
look 'service levels' slo list "$@"
look 'work that stands still' stuck list "$@"
look 'documents' documents list "$@"

case $worst in
    0) echo 'daily health check: PASS' ;;
    3) echo 'daily health check: NO_DATA' ;;
    *) echo 'daily health check: FAIL' ;;
esac
exit "$worst"
