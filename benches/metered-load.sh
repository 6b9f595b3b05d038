#!/usr/bin/env bash
# Offers 1,000 allocations a second, then 500 whole lives a second, to two brokers on a server with AWS's limits, for 60 s
# on each of ten placements of keys on partitions; then the overloads. Limits and load are divided by a scale. Half of the
# placements let nothing wait for an index, the others 1,000 units. Takes about 25 minutes.
#
#   benches/metered-load.sh [test]      a test of tests/chaos/load.rs; all are the default
#
# Environment:
#   BROKER_LOAD_PLACEMENTS    number of placements (10)
#   BROKER_LOAD_SECONDS       length of each load (60)
#   BROKER_LOAD_SCALE         the scale (10)
set -euo pipefail
cd "$(dirname "$0")/.."

export BROKER_LOAD_PLACEMENTS=${BROKER_LOAD_PLACEMENTS:-10} BROKER_LOAD_SECONDS=${BROKER_LOAD_SECONDS:-60}
cargo test --workspace --locked --test chaos -- "load::${1:-}" --nocapture
