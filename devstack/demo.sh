#!/usr/bin/env bash
# `make demo`: the commands a person would type, each shown before it runs, with 500 transactions a second for a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

run() {
  printf '\n\033[1m$ %s\033[0m\n' "$*"
  "$@"
}

data=$(mktemp -d)
stop=yes
finish() {
  rm -rf "$data"
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

# What finance would open: today's largest merchants. Any client of ClickHouse does; curl is one.
if command -v curl >/dev/null; then
  run curl --silent --show-error "http://127.0.0.1:${PAYSTREAM_CLICKHOUSE_PORT:-18123}/?database=${PAYSTREAM_CLICKHOUSE_DATABASE:-paystream}" --data-binary \
    "SELECT merchant_name, currency, status, transactions, amount, amount_reporting, reporting_currency
     FROM report_merchant_by_day WHERE day = today() ORDER BY amount_reporting DESC LIMIT 5 FORMAT PrettyCompactMonoBlock"
fi
exit "$verdict"
