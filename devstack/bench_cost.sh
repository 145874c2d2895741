#!/usr/bin/env bash
# The measured coefficients of `paystream cost`: a minute at each of nine rates, on a fresh local stack of its own that is
# deleted afterwards. Ten minutes; writes cost/coefficients.yaml. Then `paystream cost memo` brings the memo up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -d .venv ] && PATH="$PWD/.venv/bin:$PATH"

home=$(mktemp -d)
export PAYSTREAM_HOME="$home/stack"
finish() {
  paystream down --delete-data
  rm -rf "$home"
}
trap finish EXIT

paystream up --broker kafka
paystream migrate up
for kind in merchants fx; do
  paystream dims sample $kind --to "$home/$kind"
  paystream dims refresh $kind --from "$home/$kind"
done
for rate in 100 250 500 1000 2500 5000 10000 20000 50000; do
  cat > "$home/$rate.yaml" <<YAML
description: A minute at $rate a second, for the cost model.
rate_per_second: $rate
duration_seconds: 60
thresholds: {p95_seconds: 3}
YAML
  paystream loadtest run "$home/$rate.yaml" --json "$home/$rate.json"
done
paystream cost fit "$home"/*.json --to cost/coefficients.yaml
