# shellcheck shell=bash
# A server and an agent as separate processes on SPIRE-style configuration, and the CLI calls to set them up.

readonly TD=interop.test
readonly NODE_ID=spiffe://$TD/node

# Short lives: three SVID rotations and a rotation of both CA keys fit into about 75 s, and half a life is time enough on a busy
# machine.
# shellcheck disable=SC2034 # `fill` reads them by name
readonly CA_TTL=${INTEROP_CA_TTL:-80s} X509_TTL=${INTEROP_X509_TTL:-18s} JWT_TTL=${INTEROP_JWT_TTL:-22s}

readonly READY_SECS=120

# fill <template> <file>: replaces @NAME@ by the shell variable NAME.
fill() {
  local text name
  text=$(<"$1")
  for name in TD RUN SERVER_PORT CA_TTL X509_TTL JWT_TTL; do
    text=${text//@$name@/${!name}}
  done
  printf '%s\n' "$text" >"$2"
}

start_server() {
  # shellcheck disable=SC2034 # `fill` reads it by name
  SERVER_PORT=$(free_port)
  SERVER_SOCKET=$RUN/server/api.sock
  mkdir "$RUN/server"
  fill "$INTEROP/conf/server.conf.in" "$RUN/server.conf"
  start server "$VOUCHSAFE" server run -config "$RUN/server.conf"
  SERVER_PID=$STARTED
  if wait_for "$READY_SECS" "$SERVER_PID" "$VOUCHSAFE" server healthcheck -socketPath "$SERVER_SOCKET"; then
    check ok stack.server "healthy"
  else
    die "the server did not become healthy in $READY_SECS s"
  fi
}

start_agent() {
  local output token
  AGENT_SOCKET=$RUN/agent/api.sock
  mkdir -m 0755 "$RUN/agent"
  "$VOUCHSAFE" server bundle show -socketPath "$SERVER_SOCKET" >"$RUN/bundle.pem" || die "bundle show failed"
  output=$("$VOUCHSAFE" server token generate -socketPath "$SERVER_SOCKET" -spiffeID "$NODE_ID") || die "token generate failed"
  token=$(sed -n 's/^Token: *//p' <<<"$output")
  [[ -n $token ]] || die "token generate printed no token: $output"
  fill "$INTEROP/conf/agent.conf.in" "$RUN/agent.conf"
  start agent "$VOUCHSAFE" agent run -config "$RUN/agent.conf" -joinToken "$token"
  AGENT_PID=$STARTED
  if wait_for "$READY_SECS" "$AGENT_PID" "$VOUCHSAFE" agent healthcheck -socketPath "$AGENT_SOCKET"; then
    check ok stack.agent "attested and healthy"
  else
    die "the agent did not become healthy in $READY_SECS s"
  fi
}

# create_entry <uid> <spiffe id> [flags...]
create_entry() {
  local uid=$1 id=$2
  shift 2
  "$VOUCHSAFE" server entry create -socketPath "$SERVER_SOCKET" -parentID "$NODE_ID" -spiffeID "$id" \
    -selector "unix:uid:$uid" "$@" >>"$RUN/logs/entries.log" 2>&1 || die "entry create failed for $id"
}

# Both must still be the processes that were started.
check_alive() {
  if running "$SERVER_PID" && running "$AGENT_PID"; then
    check ok stack.alive "server and agent ran throughout"
  else
    check FAIL stack.alive "the server or the agent is gone"
  fi
}
