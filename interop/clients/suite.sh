# shellcheck shell=bash
# Suite `clients`: third-party Workload API clients against the real binary, all at once, over SVID and CA rotations.

# shellcheck source=interop/stack.sh
source "$INTEROP/stack.sh"
# shellcheck source=interop/pins.sh
source "$INTEROP/pins.sh"
# shellcheck source=interop/clients/mtls.sh
source "$INTEROP/clients/mtls.sh"
# shellcheck source=interop/clients/chains.sh
source "$INTEROP/clients/chains.sh"

readonly ALL_CLIENTS=(python rust node go)
readonly DENIED_UID=65534
readonly ROTATIONS=3
readonly DEADLINE_SECS=${INTEROP_DEADLINE_SECS:-300}
readonly PROPAGATION_SECS=120
readonly WORKLOAD_ID=spiffe://$TD/workload

CLIENTS=()
MTLS=
declare -A CLIENT_PID=()

run_suite() {
  choose_clients "$@"
  for client in "${ALL_CLIENTS[@]}"; do
    # shellcheck disable=SC1090
    source "$INTEROP/clients/$client/client.sh"
  done
  check_pins
  CACHE=$(cache_dir)
  mkdir -p "$CACHE"
  exec 9>"$CACHE/.lock"
  flock 9
  for client in $(needed_clients); do "${client}_install"; done
  flock -u 9
  exec 9>&-
  vouchsafe_binary

  export SPIFFE_ENDPOINT_SOCKET=unix://$RUN/agent/api.sock
  export INTEROP_ID=$WORKLOAD_ID INTEROP_ROTATIONS=$ROTATIONS INTEROP_DEADLINE_SECS=$DEADLINE_SECS
  export INTEROP_SECOND_ID=spiffe://$TD/second INTEROP_SECOND_HINT=internal INTEROP_SECOND_DNS=second.interop.test

  start_server
  start_agent
  # Without root no other uid can be taken on; then the caller without an entry is this user, before it has one.
  [[ $(id -u) -eq 0 ]] || run_each denied
  register
  if [[ $(id -u) -eq 0 ]]; then
    as_uid "$DENIED_UID"
    run_each denied "${AS_UID[@]}"
  fi
  run_each no-header
  start_watches
  [[ -z $MTLS ]] || start_mtls
  collect_watches
  [[ -z $MTLS ]] || collect_mtls
  check_chains
  check_alive
}

choose_clients() {
  local name
  [[ $# -gt 0 ]] || set -- "${ALL_CLIENTS[@]}" mtls
  for name in "$@"; do
    if [[ $name == mtls ]]; then
      MTLS=yes
    elif [[ " ${ALL_CLIENTS[*]} " == *" $name "* ]]; then
      CLIENTS+=("$name")
    else
      echo "no client named $name; there are: ${ALL_CLIENTS[*]} mtls" >&2
      exit 2
    fi
  done
}

needed_clients() {
  printf '%s\n' "${CLIENTS[@]}" ${MTLS:+go rust} | sed '/^$/d' | sort -u
}

# Two entries for this user, so that every message carries two SVIDs; the entry ids fix their order.
register() {
  local uid
  uid=$(id -u)
  create_entry "$uid" "$WORKLOAD_ID" -entryID interop-1
  create_entry "$uid" "$INTEROP_SECOND_ID" -entryID interop-2 -hint "$INTEROP_SECOND_HINT" -dns "$INTEROP_SECOND_DNS"
  [[ -z $MTLS ]] || register_mtls
  if wait_for "$PROPAGATION_SECS" "$AGENT_PID" both_issued; then
    check ok stack.entries "both SVIDs issued"
  else
    die "the agent did not issue both SVIDs in $PROPAGATION_SECS s"
  fi
}

both_issued() {
  "$VOUCHSAFE" agent api fetch x509 -socketPath "$AGENT_SOCKET" | grep -q 'Received 2 svids'
}

# start_client <client> <mode> <log name> [prefix...]: its checks go to a file of their own, the rest to a log.
start_client() {
  local client=$1 mode=$2 name=$3 out=$RUN/out/$3
  shift 3
  mkdir -p "$out"
  chmod 0777 "$out"
  "${client}_command"
  start "$name-$mode" checks_to "$out/$mode.checks" env "INTEROP_OUT=$out" \
    timeout "$((DEADLINE_SECS + 30))" "$@" "${COMMAND[@]}" "$mode"
}

checks_to() {
  local file=$1
  shift
  exec "$@" >"$file"
}

# run_each <mode> [prefix...]: one after another, for the clients that have the mode.
run_each() {
  local mode=$1 client
  shift
  for client in "${CLIENTS[@]}"; do
    grep -qx "$client $mode" "$INTEROP/clients/checks.txt" || continue
    start_client "$client" "$mode" "$client" "$@"
    collect "$client" "$mode" "$client" "$STARTED" "$mode"
  done
}

start_watches() {
  local client
  for client in "${CLIENTS[@]}"; do
    start_client "$client" watch "$client"
    CLIENT_PID[$client]=$STARTED
  done
}

collect_watches() {
  local client expected
  for client in "${CLIENTS[@]}"; do
    mapfile -t expected < <(expected_checks "$client" | grep -v -x -e denied -e no-header)
    collect "$client" watch "$client" "${CLIENT_PID[$client]}" "${expected[@]}"
  done
}

expected_checks() {
  sed -n "s/^$1 //p" "$INTEROP/clients/checks.txt"
}

# collect <client> <mode> <log name> <pid> <expected check...>: waits for a client and passes its verdicts on.
collect() {
  local label=$1 mode=$2 out=$RUN/out/$3 pid=$4 status=0 word name detail
  shift 4
  wait "$pid" || status=$?
  while read -r word name detail; do
    [[ $word == ok || $word == FAIL ]] || continue
    check "$word" "$label.$name" "$detail"
  done <"$out/$mode.checks"
  for name in "$@"; do
    grep -qE "^(ok|FAIL) $name( |$)" "$out/$mode.checks" || check FAIL "$label.$name" "not reported; exit status $status"
  done
  if [[ $status -ne 0 ]] && ! grep -q '^FAIL ' "$out/$mode.checks"; then
    check FAIL "$label.$mode" "exit status $status"
  fi
}
