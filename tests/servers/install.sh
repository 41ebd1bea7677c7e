#!/bin/sh
# Install the services that the tests start, where that is possible: Debian, as root or with sudo that asks nothing.
# Whatever is there already is left alone, and nothing is started: the tests do that themselves, on free ports.
# Elsewhere this says what is missing and succeeds; the tests that need it are then skipped, in a list at the end.
# "bench" as the argument: also what only the benchmarks compare with.
set -eu

missing=""
PATH="$PATH:/usr/sbin:/usr/local/sbin" # where Debian keeps servers
need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need prometheus prometheus
command -v prometheus >/dev/null 2>&1 && need promtool prometheus
need prometheus-alertmanager prometheus-alertmanager
need chromium chromium
need node nodejs
need npm npm
need curl curl
need sqlite3 sqlite3
need redis-server redis-server
need redis-sentinel redis-sentinel
need pgbouncer pgbouncer
need nginx nginx
need haproxy haproxy
need caddy caddy
need cc gcc
need_file() { # need_file PATTERN PACKAGE: the servers' drivers, which their packages only suggest
    # shellcheck disable=SC2086  # a pattern on purpose
    ls $1 >/dev/null 2>&1 || missing="$missing $2"
}
need ejabberdctl ejabberd
need_file '/usr/lib/erlang/lib/p1_sqlite3-*/ebin' erlang-p1-sqlite3
need prosody prosody
need_file '/usr/lib/*/lua/5.4/dbd/sqlite3.so' lua-dbi-sqlite3
need_file /usr/include/stdio.h libc6-dev # which gcc only recommends
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 || missing="$missing postgresql"
[ "${1:-}" != bench ] || need prometheus-postgres-exporter prometheus-postgres-exporter
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=""
elif sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    as_root="none"
fi
if ! command -v apt-get >/dev/null 2>&1 || [ "$as_root" = none ]; then
    echo "not on this machine, and not to be installed by this user:$missing; their tests are skipped"
    exit 0
fi
echo "installing for the tests:$missing"
# policy-rc.d: the packages must not start their own servers
policy=/usr/sbin/policy-rc.d
made=""
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod +x "$policy"
    made=yes
fi
status=0
$as_root apt-get update -qq >/dev/null || true
# shellcheck disable=SC2086  # words on purpose
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null || status=$?
[ -z "$made" ] || $as_root rm -f "$policy"
[ "$status" = 0 ] || echo "apt-get failed ($status); the tests that need these are skipped:$missing"
exit 0
