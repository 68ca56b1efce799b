# shellcheck shell=bash
# Two workloads over mutual TLS through a rotation of the CA, across languages in both directions.

readonly MTLS_SERVER_UID=65533
readonly MTLS_SERVER_ID=spiffe://$TD/mtls-server

# name of the pair, dialing client, serving client
readonly MTLS_PAIRS=("go-to-rust go rust" "rust-to-go rust go")
declare -A PAIR_PID=()

# As root the serving ends have a user and an identity of their own; otherwise they share this user's.
register_mtls() {
  MTLS_PREFIX=()
  MTLS_PEER=$WORKLOAD_ID
  [[ $(id -u) -eq 0 ]] || return 0
  as_uid "$MTLS_SERVER_UID"
  MTLS_PREFIX=("${AS_UID[@]}")
  MTLS_PEER=$MTLS_SERVER_ID
  create_entry "$MTLS_SERVER_UID" "$MTLS_SERVER_ID" -entryID interop-mtls
}

start_mtls() {
  local pair name dialing serving
  for pair in "${MTLS_PAIRS[@]}"; do
    read -r name dialing serving <<<"$pair"
    INTEROP_PEER_ID=$WORKLOAD_ID start_client "$serving" mtls-serve "$name-server" "${MTLS_PREFIX[@]}"
    if ! wait_for "$READY_SECS" "$STARTED" test -s "$RUN/out/$name-server/address"; then
      check FAIL "$name.mtls.serve" "the serving end did not start"
      continue
    fi
    INTEROP_PEER_ID=$MTLS_PEER INTEROP_PEER_ADDRESS=$(<"$RUN/out/$name-server/address") \
      start_client "$dialing" mtls-dial "$name"
    PAIR_PID[$name]=$STARTED
  done
}

collect_mtls() {
  local pair name expected
  for pair in "${MTLS_PAIRS[@]}"; do
    read -r name _ <<<"$pair"
    [[ -n ${PAIR_PID[$name]:-} ]] || continue
    mapfile -t expected < <(expected_checks "$name")
    collect "$name" mtls-dial "$name" "${PAIR_PID[$name]}" "${expected[@]}"
  done
}
