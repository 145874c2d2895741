#!/usr/bin/env bash
# `make demo`: the commands a person would type, each shown before it runs, with 500 transactions a second for a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

run() {
  printf '\n\033[1m$ %s\033[0m\n' "$*"
  "$@"
}

data=$(mktemp -d)
stop=paystream-down
finish() {
  rm -rf "$data"
  [ -z "$stop" ] || run paystream down
}
trap finish EXIT

# A stack that was running before the demo is left running after it.
case $(paystream up ${BROKER:+--broker "$BROKER"} --json) in
  *'"already running"'*) stop= ;;
esac

run paystream migrate up
run paystream dims sample merchants --to "$data/merchants.csv"
run paystream dims refresh merchants --from "$data/merchants.csv"
run paystream dims sample fx --to "$data/eurofxref-hist.zip"
run paystream dims refresh fx --from "$data/eurofxref-hist.zip"
verdict=0
run paystream loadtest run demo || verdict=$?
exit "$verdict"
