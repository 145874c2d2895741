#!/usr/bin/env bash
# `make bench`: the figures of docs/performance.md, on a fresh local stack of its own that is deleted afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."

home=$(mktemp -d)
export PAYSTREAM_HOME="$home/stack"
finish() {
  paystream down --delete-data
  rm -rf "$home"
}
trap finish EXIT

paystream up --broker kafka
paystream migrate up
paystream dims sample merchants --to "$home/merchants.csv"
paystream dims refresh merchants --from "$home/merchants.csv"
paystream dims sample fx --to "$home/eurofxref-hist.zip"
paystream dims refresh fx --from "$home/eurofxref-hist.zip"
paystream dims sample merchants --count 1000000 --to "$home/million.csv"
paystream dims refresh merchants --from "$home/million.csv"

failed=0
for workload in today ten_times hundred_times; do
  paystream loadtest run "$workload" || failed=1
done
paystream loadtest drain --compare 3 || failed=1
# On a stack of its own.
paystream down
paystream loadtest repair || failed=1
exit $failed
