#!/usr/bin/env bash
# `make demo`: the commands a person would type, each shown before it runs, with 500 transactions a second for a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

bold='' plain=''
if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; fi

run() {
  printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"
  "$@"
}

data=${PAYSTREAM_HOME:-.paystream}/sample
mkdir -p "$data"
stop=yes
finish() {
  [ -z "$stop" ] || run paystream down
}
trap finish EXIT

# A stack that was running before the demo is left running after it.
if (exec 3<>"/dev/tcp/127.0.0.1/${PAYSTREAM_CLICKHOUSE_PORT:-18123}") 2>/dev/null; then stop=; fi

run paystream up ${BROKER:+--broker "$BROKER"}
run paystream migrate up
run paystream dims sample merchants --to "$data/merchants.csv"
run paystream dims refresh merchants --from "$data/merchants.csv"
run paystream dims sample fx --to "$data/eurofxref-hist.zip"
run paystream dims refresh fx --from "$data/eurofxref-hist.zip"
verdict=0
run paystream loadtest run demo || verdict=$?

# What finance would open. It has everything that was read before this moment, within a minute.
run paystream report merchant_ranking --wait --limit 5
exit "$verdict"
