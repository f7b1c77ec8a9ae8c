#!/usr/bin/env bash
# Installs the Debian packages that the tests and benchmarks start for real. Names them where it may not install them.
set -euo pipefail
declare -A package=([redis-server]=redis-server [redis-sentinel]=redis-sentinel [nginx]=nginx [wrk]=wrk [hey]=hey [setpriv]=util-linux
  [chromium]=chromium [promtool]=prometheus [prometheus-alertmanager]=prometheus-alertmanager [curl]=curl [node]=nodejs [npm]=npm [ip]=iproute2 [nsenter]=util-linux [unshare]=util-linux [slapd]=slapd [zbarimg]=zbar-tools)
missing=()
for command in "${!package[@]}"; do
  PATH=$PATH:/usr/sbin command -v "$command" >/dev/null || missing+=("${package[$command]}")
done
PATH=$PATH:/usr/sbin command -v rsyslogd >/dev/null || missing+=(rsyslog)
for driver in openssl:ossl gnutls:gtls; do # a test sends to both of rsyslog's TLS drivers
  compgen -G "/usr/lib/*/rsyslog/lmnsd_${driver#*:}.so" >/dev/null || missing+=("rsyslog-${driver%:*}")
done
[ -e /usr/share/simplesamlphp/www ] || missing+=(simplesamlphp php-cli php-xml php-mbstring) # signs people in by SAML
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "The tests need these Debian packages: ${missing[*]}" >&2
  exit 2
fi
apt-get update -qq
# the packages' own services are not wanted: each test starts a server of its own
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d.bailiwick && chmod +x /usr/sbin/policy-rc.d.bailiwick
[ -e /usr/sbin/policy-rc.d ] || { ln -s policy-rc.d.bailiwick /usr/sbin/policy-rc.d; trap 'rm -f /usr/sbin/policy-rc.d' EXIT; }
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
