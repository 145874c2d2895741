#!/usr/bin/env bash
# `make demo`: the commands a person would type, each shown before it runs, with 500 transactions a second for a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

run() {
  printf '\n\033[1m$ %s\033[0m\n' "$*"
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

# What finance would open. Any client of ClickHouse does; curl is one.
report="SELECT merchant_name, sum(transactions) AS transactions, sum(amount_reporting) AS amount, reporting_currency
FROM report_merchant_by_day WHERE day = today()
GROUP BY ALL ORDER BY amount DESC LIMIT 5 FORMAT PrettyCompactMonoBlock"
if command -v curl >/dev/null; then
  url="http://127.0.0.1:${PAYSTREAM_CLICKHOUSE_PORT:-18123}/?database=${PAYSTREAM_CLICKHOUSE_DATABASE:-paystream}"
  printf "\n\033[1m$ curl '%s' --data-binary \"%s\"\033[0m\n" "$url" "$report"
  curl --silent --show-error "$url" --data-binary "$report"
fi
exit "$verdict"
