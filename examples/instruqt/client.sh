#!/usr/bin/env bash
# The broker's client for the lifecycle scripts of Instruqt tracks. It needs bash, curl and Instruqt's `agent`.
#
#   client.sh setup      gets a sandbox and stores it in agent variables
#   client.sh cleanup    gives it back; exits 0 unless BROKER_STRICT=1
#   client.sh activate   starts the lab's time of a sandbox that was allocated with BROKER_STANDBY=1
#   client.sh renew      renews the holding
#
# Everything is in functions, so that a copy that was broken off does nothing.

fail() {
  echo "sandbox broker: $*" >&2
  exit 1
}

headers() {
  # Not on the command line, where other users of this host could read them.
  printf 'Authorization: Bearer %s\n' "$BROKER_API_TOKEN"
  printf 'X-Instruqt-Sandbox-ID: %s\n' "$owner"
  [ -z "$secret" ] || printf 'X-Track-Secret: %s\n' "$secret"
  local track=${INSTRUQT_TRACK_SLUG:-${INSTRUQT_TRACK_ID:-}}
  [ -z "$track" ] || printf 'X-Instruqt-Track-ID: %s\n' "$track"
  [ -z "${BROKER_MINUTES:-}" ] || printf 'X-Sandbox-Minutes: %s\n' "$BROKER_MINUTES"
  if [ "$1" = /v1/allocate ]; then
    local left=$((patience > SECONDS ? patience - SECONDS : 0))
    printf 'Prefer: wait=%s\n' "$((left < 25 ? left : 25))"
    [ -z "${BROKER_NAME_PREFIX:-}" ] || printf 'X-Sandbox-Name-Prefix: %s\n' "$BROKER_NAME_PREFIX"
    [ "${BROKER_STANDBY:-}" != 1 ] || printf 'X-Sandbox-Standby: true\n'
  fi
}

# Sends a request, and sets `status`: 000 if the connection fails or breaks off.
call() {
  : > "$answer/headers"
  : > "$answer/body"
  status=$(curl --silent --connect-timeout 10 --max-time "${3:-40}" --request "$1" --header @<(headers "$2") \
    --dump-header "$answer/headers" --output "$answer/body" --write-out '%{http_code}' "$url$2") || status=000
}

# One field of the answer: a string, a number. JSON may be on several lines.
text() { tr -d '\r\n' < "$answer/body" | sed -nE "s/.*\"$1\" *: *\"(([^\"\\\\]|\\\\.)*)\".*/\1/p"; }
number() { tr -d '\r\n' < "$answer/body" | sed -nE "s/.*\"$1\" *: *([0-9]+).*/\1/p"; }

# What the answer says, for people.
explain() {
  case $status in
    000) echo "$url was not reached, or the connection broke off" ;;
    30?) echo "$url redirects to $(sed -nE 's/^location: *([^\r]*).*/\1/Ip' "$answer/headers"): set BROKER_URL to the final address" ;;
    404) echo "404: is BROKER_URL the broker's address? $(head -c 200 "$answer/body")" ;;
    *) echo "$status $(head -c 500 "$answer/body")" ;;
  esac
}

# Waits as the answer asks, or fails when the patience ends.
wait_again() {
  local wait
  wait=$(sed -nE 's/^retry-after: *([0-9]+).*/\1/Ip' "$answer/headers")
  # Jitter, so that a class does not come back at the same moment.
  wait=$((${wait:-5} + RANDOM % 3))
  ((SECONDS + wait <= patience)) || return 1
  echo "sandbox broker: not yet ($(explain)); again in $wait seconds" >&2
  sleep "$wait"
}

# Sets an agent variable. The agent may come up later than this script.
set_variable() {
  until agent variable set "$1" "$2"; do
    ((SECONDS + 2 <= patience)) || fail "the agent does not take variables"
    sleep 2
  done
}

# Who this student is. It is stored before anything is allocated, so that cleanup can always give back.
identify() {
  owner=$(agent variable get BROKER_OWNER 2> /dev/null || true)
  secret=$(agent variable get BROKER_SECRET 2> /dev/null || true)
  owner=${owner:-${INSTRUQT_PARTICIPANT_ID:-${_SANDBOX_ID:-}}}
  [ -n "$owner" ] || fail "INSTRUQT_PARTICIPANT_ID is not set: Instruqt sets it for each play of a track"
}

# Makes the student's secret, once for all setups that run at the same time: the first file wins.
make_secret() {
  local file=$HOME/.sandbox-broker-secret
  (umask 077 && od -An -v -N32 -tx1 /dev/urandom | tr -d ' \n' > "$answer/secret")
  ln "$answer/secret" "$file" 2> /dev/null || true
  secret=$(cat "$file")
  [ -n "$secret" ] || fail "$file cannot be written"
}

give_back() {
  # A sandbox that another setup of this student has stored stays.
  if [ "$has_sandbox" = 0 ] && [ -z "$(agent variable get SANDBOX_ID 2> /dev/null)" ]; then
    call DELETE /v1/allocation 10
  fi
  rm -rf "$answer"
}

setup() {
  identify
  if [ -z "$secret" ]; then
    make_secret
    set_variable BROKER_OWNER "$owner"
    set_variable BROKER_SECRET "$secret"
  fi
  # A setup that fails leaves nothing behind. If it is killed at once, cleanup gives back.
  trap give_back EXIT
  trap 'exit 1' TERM INT HUP
  while true; do
    call POST /v1/allocate
    case $status in
      200 | 201)
        [ -z "$(text sandbox_id)" ] || break
        # Something else than the broker has answered, or the answer broke off.
        ;;
      409) [ "$(text code)" != WITHDRAWN ] || fail "$(explain)" ;;
      408 | 429 | 5?? | 000) ;;
      *) fail "$(explain)" ;;
    esac
    wait_again || fail "no sandbox after $SECONDS seconds; the last answer was $(explain)"
  done
  set_variable SANDBOX_ID "$(text sandbox_id)"
  set_variable SANDBOX_NAME "$(text name)"
  set_variable SANDBOX_EXTERNAL_ID "$(text external_id)"
  set_variable SANDBOX_EXPIRES_AT "$(number expires_at)"
  has_sandbox=1
  echo "sandbox $(text sandbox_id) is this student's"
}

# Repeats a request until it is answered with 200.
insist() {
  while true; do
    call "$1" "$2"
    case $status in
      200) return 0 ;;
      408 | 429 | 5?? | 000) ;;
      *) return 1 ;;
    esac
    wait_again || return 1
  done
}

cleanup() {
  # Authors append this to their own teardown, which a failure here must not end.
  (
    identify
    if ! insist DELETE /v1/allocation || ! grep -q '"released"' "$answer/body"; then fail "$(explain)"; fi
    case $(tr -d ' \r\n' < "$answer/body") in
      *'"released":true'*) echo "the sandbox is given back" ;;
      *) echo "there is nothing to give back" ;;
    esac
  )
  local result=$?
  rm -rf "$answer"
  [ "${BROKER_STRICT:-}" = 1 ] || result=0
  exit "$result"
}

activate() {
  trap 'rm -rf "$answer"' EXIT
  identify
  insist POST /v1/allocation/activate || fail "$(explain)"
  set_variable SANDBOX_EXPIRES_AT "$(number expires_at)"
  echo "the lab's time runs"
}

renew() {
  trap 'rm -rf "$answer"' EXIT
  identify
  insist POST "/v1/sandboxes/$(agent variable get SANDBOX_ID)/renew" || fail "$(explain)"
  set_variable SANDBOX_EXPIRES_AT "$(number expires_at)"
  echo "the holding is renewed"
}

main() {
  set -uo pipefail
  local command=${1:-}
  local strict=1
  [ "$command" != cleanup ] || strict=${BROKER_STRICT:-0}
  owner='' secret='' status=000 has_sandbox=0
  (
    for name in BROKER_URL BROKER_API_TOKEN; do
      [ -n "${!name:-}" ] || fail "$name is not set: list it in the track's config.yml"
    done
    [[ ${BROKER_PATIENCE_SEC:-0} =~ ^[0-9]+$ ]] || fail "BROKER_PATIENCE_SEC holds $BROKER_PATIENCE_SEC; it takes seconds"
  ) || exit "$strict"
  url=$BROKER_URL
  while [ "${url%/}" != "$url" ]; do url=${url%/}; done
  answer=$(mktemp -d) || exit "$strict"
  case $command in
    # Instruqt gives setup scripts at least half an hour.
    setup) patience=${BROKER_PATIENCE_SEC:-900} ;;
    *) patience=${BROKER_PATIENCE_SEC:-300} ;;
  esac
  case $command in
    setup | cleanup | activate | renew) "$command" ;;
    *) fail "usage: client.sh setup|cleanup|activate|renew" ;;
  esac
}

main "$@"
