# shellcheck shell=bash
# Rotations while requests go through, and what came of them.

# How long a new root may take to reach every Envoy before it signs, and new leaves to replace the old.
readonly SPREAD_SECS=12

under_load() {
  local load probe
  start load checks_to "$RUN/load" python3 -B "$INTEROP/envoy/load.py" "$LOAD_SECS" \
    "client,${EGRESS_PORT[client]},/open,spiffe://$TD_A/client" "own,${EGRESS_PORT[client]},/own,spiffe://$TD_A/client" \
    "plain,${EGRESS_PORT[plain]},/open,spiffe://$TD_A/plain" "foreign,${EGRESS_PORT[foreign]},/open,spiffe://$TD_B/client"
  load=$STARTED
  start probe watch_leaves
  probe=$STARTED
  force_rotation
  wait "$load" || check FAIL load "the loader ended with status $?"
  kill "$probe" 2>/dev/null || true
  check_load
  check_rotations
}

checks_to() {
  local file=$1
  shift
  exec "$@" >"$file"
}

# Once a second: the certificate that the server's Envoy presents, as `<its serial> <its authority>`.
watch_leaves() {
  while :; do
    openssl s_client -connect "127.0.0.1:$OPEN_PORT" </dev/null 2>/dev/null \
      | openssl x509 -noout -serial -ext authorityKeyIdentifier 2>/dev/null | tr -d ' \n' \
      | sed -E 's/serial=([0-9A-F]+).*Identifier:(keyid:)?([0-9A-F:]+).*/\1 \3\n/' >>"$RUN/leaves"
    sleep 1
  done
}

check_load() {
  local name requests failures first
  while read -r name requests failures first; do
    if [[ $failures -eq 0 && $requests -ge $MIN_REQUESTS ]]; then
      check ok "load.$name" "$requests requests, 0 failed"
    else
      check FAIL "load.$name" "$requests requests, $failures failed; first: $first"
    fi
  done <"$RUN/load"
  [[ $(wc -l <"$RUN/load") -eq 4 ]] || check FAIL load "the loader reported $(wc -l <"$RUN/load") targets, not 4"
}

check_rotations() {
  local leaves roots
  leaves=$(cut -d' ' -f1 "$RUN/leaves" | sort -u | wc -l)
  roots=$(cut -d' ' -f2 "$RUN/leaves" | sort -u | wc -l)
  if [[ $leaves -ge $MIN_LEAVES ]]; then
    check ok rotation.leaf "$leaves certificates were presented"
  else
    check FAIL rotation.leaf "$leaves certificates were presented, not $MIN_LEAVES"
  fi
  if [[ $roots -ge $EXPECTED_ROOTS ]]; then
    check ok rotation.root "they were signed by $roots authorities"
  else
    check FAIL rotation.root "they were signed by $roots authorities, not $EXPECTED_ROOTS"
  fi
}

# An operator replaces the root: prepare, activate, taint, revoke. The server does the same once more by itself later.
EXPECTED_ROOTS=3
force_rotation() {
  local old new
  sleep 5
  old=$(authority active)
  on_server a localauthority x509 prepare >>"$RUN/logs/forced.log" 2>&1 || return_forced "prepare"
  new=$(authority prepared)
  sleep "$SPREAD_SECS"
  on_server a localauthority x509 activate -authorityID "$new" >>"$RUN/logs/forced.log" 2>&1 || return_forced "activate"
  on_server a localauthority x509 taint -authorityID "$old" >>"$RUN/logs/forced.log" 2>&1 || return_forced "taint"
  sleep "$SPREAD_SECS"
  on_server a localauthority x509 revoke -authorityID "$old" >>"$RUN/logs/forced.log" 2>&1 || return_forced "revoke"
  if [[ -n $old && -n $new && $old != "$new" && $(authority active) == "$new" ]]; then
    check ok rotation.forced "an operator replaced the root under load and revoked the one before"
  else
    check FAIL rotation.forced "old $old, new $new, active $(authority active)"
  fi
}

return_forced() {
  check FAIL rotation.forced "$1: $(tail -n 1 "$RUN/logs/forced.log")"
}

# authority active|prepared|old: its id.
authority() {
  on_server a localauthority x509 show -output json 2>>"$RUN/logs/forced.log" \
    | python3 -c 'import json, sys; print(json.load(sys.stdin).get(sys.argv[1], {}).get("authority_id", ""))' "$1"
}
