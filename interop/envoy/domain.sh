# shellcheck shell=bash
# Trust domains, each a server and an agent of its own in a directory of the run: $RUN/a, $RUN/b.

readonly READY_SECS=120
readonly TD_A=envoy.test TD_B=other.test

declare -A SERVER_SOCKET=() AGENT_SOCKET=() DOMAIN_PIDS=()

# start_domain <key> <trust domain> <ca ttl> <svid ttl>
start_domain() {
  local key=$1 td=$2 dir=$RUN/$1 port token output
  port=$(free_port)
  mkdir -m 0755 "$dir" "$dir/server" "$dir/agent"
  fill_domain "$INTEROP/conf/server.conf.in" "$dir/server.conf" "$dir" "$td" "$port" "$3" "$4"
  fill_domain "$INTEROP/conf/agent.conf.in" "$dir/agent.conf" "$dir" "$td" "$port" "$3" "$4"
  SERVER_SOCKET[$key]=$dir/server/api.sock
  AGENT_SOCKET[$key]=$dir/agent/api.sock
  start "$key-server" "$VOUCHSAFE" server run -config "$dir/server.conf"
  DOMAIN_PIDS[$key-server]=$STARTED
  wait_for "$READY_SECS" "$STARTED" "$VOUCHSAFE" server healthcheck -socketPath "${SERVER_SOCKET[$key]}" \
    || die "the server of $td did not become healthy in $READY_SECS s"
  on_server "$key" bundle show >"$dir/bundle.pem" || die "bundle show failed"
  output=$(on_server "$key" token generate -spiffeID "spiffe://$td/node") || die "token generate failed"
  token=$(sed -n 's/^Token: *//p' <<<"$output")
  start "$key-agent" "$VOUCHSAFE" agent run -config "$dir/agent.conf" -joinToken "$token"
  DOMAIN_PIDS[$key-agent]=$STARTED
  wait_for "$READY_SECS" "$STARTED" "$VOUCHSAFE" agent healthcheck -socketPath "${AGENT_SOCKET[$key]}" \
    || die "the agent of $td did not become healthy in $READY_SECS s"
  check ok "domain.$key" "$td: server and agent healthy"
}

# fill_domain <template> <file> <directory> <trust domain> <port> <ca ttl> <svid ttl>
fill_domain() {
  sed -e "s#@RUN@#$3#g" -e "s#@TD@#$4#g" -e "s#@SERVER_PORT@#$5#g" -e "s#@CA_TTL@#$6#g" -e "s#@X509_TTL@#$7#g" \
    -e "s#@JWT_TTL@#$7#g" "$1" >"$2"
}

# on_server <key> <command...>: a command of the command line, on that domain's server. The socket comes last, after the
# words that make the command.
on_server() {
  local key=$1
  shift
  "$VOUCHSAFE" server "$@" -socketPath "${SERVER_SOCKET[$key]}"
}

# register <key> <entry id> <spiffe id> [flags...]: for every process of this user.
register() {
  local key=$1 id=$2 spiffe_id=$3 td
  shift 3
  td=${spiffe_id#spiffe://}
  on_server "$key" entry create -entryID "$id" -parentID "spiffe://${td%%/*}/node" -spiffeID "$spiffe_id" \
    -selector "unix:uid:$(id -u)" "$@" >>"$RUN/logs/entries.log" 2>&1 || die "entry create failed for $spiffe_id"
}

# pass_bundle <from> <trust domain> <to>: what an operator does who federates by hand.
pass_bundle() {
  on_server "$1" bundle show -format spiffe >"$RUN/$1.$3.json" \
    && on_server "$3" bundle set -id "spiffe://$2" -format spiffe -path "$RUN/$1.$3.json"
}

# For as long as it runs, each domain has the other's newest bundle.
keep_federated() {
  while :; do
    pass_bundle a "$TD_A" b
    pass_bundle b "$TD_B" a
    sleep 2
  done
}

check_alive() {
  local name gone=()
  for name in "${!DOMAIN_PIDS[@]}"; do running "${DOMAIN_PIDS[$name]}" || gone+=("$name"); done
  if [[ ${#gone[@]} -eq 0 ]]; then
    check ok stack.alive "servers, agents and Envoys ran throughout"
  else
    check FAIL stack.alive "gone: ${gone[*]}"
  fi
}
