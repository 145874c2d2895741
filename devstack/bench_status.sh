#!/usr/bin/env bash
# What `paystream status` takes, and the load test's query for its canaries, with more and more rows stored:
# `devstack/bench_status.sh [millions...]`, by default 1 and 10 (100 takes some ten minutes and 10 GB). A stack of its own,
# deleted afterwards.
# Rows go straight into the tables: payments at 500 a second up to now, one in a hundred refused, and half as many blocks in
# the ledger, over 30 days (50 million at 100 million payments: 20 a second; the stack makes 25).
set -euo pipefail
cd "$(dirname "$0")/.."
[ -d .venv ] && PATH="$PWD/.venv/bin:$PATH"

home=$(mktemp -d)
python -c 'import sys
from pathlib import Path
from paystream.devstack.stack import settings_on_free_ports
for name, value in settings_on_free_ports(Path(sys.argv[1])).environment().items():
    print(f"export {name}={value!r}")' "$home/stack" > "$home/settings"
. "$home/settings"
finish() {
  paystream down --delete-data > /dev/null
  rm -rf "$home"
}
trap finish EXIT

ask() {
  curl --silent --show-error --fail-with-body --data-binary @- \
    "http://127.0.0.1:$PAYSTREAM_CLICKHOUSE_PORT/?database=$PAYSTREAM_CLICKHOUSE_DATABASE"
}

paystream up > /dev/null
paystream migrate up > /dev/null
for kind in merchants fx; do
  paystream dims sample $kind --to "$home/$kind" > /dev/null
  paystream dims refresh $kind --from "$home/$kind" > /dev/null
done

# Blocks of weeks, made up in a minute, would be merged at once, which does not fit the local engine's memory.
ask <<< 'SYSTEM STOP MERGES ingest_ledger'

stored=0
for millions in "${@:-1 10}"; do for million in $millions; do
  rows=$((million * 1000000))
  ask <<SQL
INSERT INTO transactions (transaction_id, created_at, merchant_id, amount, currency, status, updated_at, merchant_name, enrichment_status,
    kafka_topic, kafka_partition, kafka_offset, kafka_timestamp, ingested_at)
SELECT generateUUIDv4(), at, number * 7919 % 80000, number % 100000 / 100, 'EUR', 'captured', at, 'A merchant',
    if(number % 50 = 0, 'merchant_pending', 'ok'), 'transactions', number % 4, number, at, at
FROM (SELECT number, now64(3) - toIntervalMillisecond(number * 2) AS at FROM numbers($stored, $((rows - stored))))
SQL
  ask <<SQL
INSERT INTO quarantine SELECT 'not_json', 'x', 'k', 'transactions', number % 4, number, at, at
FROM (SELECT number, now64(3) - toIntervalMillisecond(number * 200) AS at FROM numbers($((stored / 100)), $(((rows - stored) / 100))))
SQL
  # Each within a request's time limit and the local engine's memory.
  for ((from = stored / 2; from < rows / 2; from += 2000000)); do
    count=$((rows / 2 - from < 2000000 ? rows / 2 - from : 2000000))
    ask <<SQL
INSERT INTO ingest_ledger SELECT 'transactions', number % 4, number * 25, number * 25 + 24, 25, 0, at, at, 25, number % 100 = 0,
    arrayMap(bucket -> toUInt32(bucket BETWEEN 50 AND 74), range(176))
FROM (SELECT number, now64(3) - toIntervalMillisecond((number % ($rows / 2)) * 2592000000 / ($rows / 2)) AS at FROM numbers($from, $count))
SETTINGS max_threads = 1, max_insert_threads = 1, max_block_size = 16384, min_insert_block_size_rows = 65536, min_insert_block_size_bytes = 0
SQL
  done
  # What has just come in, as at any moment of a running pipeline.
  ask <<SQL
INSERT INTO ingest_ledger SELECT 'transactions', number % 4, number * 25, number * 25 + 24, 25, 0, at, at, 25, 0,
    arrayMap(bucket -> toUInt32(bucket BETWEEN 50 AND 74), range(176))
FROM (SELECT number, now64(3) - toIntervalMillisecond(number * 50) AS at FROM numbers(6000))
SQL
  stored=$rows
  for try in 1 2 3 4 5; do
    start=$(date +%s%N)
    line=$(paystream status || true)
    end=$(date +%s%N)
    asked=$(sed -n 's/.* took_s=\([0-9.]*\).*/\1/p' <<< "$line")
    # The start of Python and its imports are in the first figure and not in the second.
    echo "rows=$rows try=$try command_ms=$(((end - start) / 1000000)) asked_s=$asked"
  done
  echo "$line"
  # The load test's reader asks for canaries, some 25 times a second: what its query takes among so many rows.
  paystream loadtest run today --json "$home/today.json" > /dev/null || true
  { paystream loadtest report "$home/today.json" --json || true; } | python -c 'import json, sys
run = json.load(sys.stdin)
seen = run["visibility"]
print("rows='$rows'", "verdict=" + run["verdict"], "others_share=%s" % run["usage"]["others_share"],
      "query_p95_s=%.4f p95_s=%.3f" % (seen["query_p95_s"], seen["p95_s"]))'
done; done
