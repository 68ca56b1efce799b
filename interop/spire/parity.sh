# shellcheck shell=bash
# Every command of SPIRE and of ours on a server and an agent of SPIRE and of ours. Sourced by suite.sh.
#
# A world is a fresh server with one agent and one command line that changes it: `<command line>/<server and agent>`. The
# same commands run in all four; what stock commands do in the stock world is what the others must do.

readonly PARITY_WORLDS=(stock/stock ours/stock stock/ours ours/ours)

# Needs VOUCHSAFE and SPIRE. Adds the checks of parity.py to this run's.
run_parity() {
  local world status=0 arguments=()
  mkdir -p "$RUN/ours"
  ln -sf "$VOUCHSAFE" "$RUN/ours/spire-server"
  ln -sf "$VOUCHSAFE" "$RUN/ours/spire-agent"
  for world in "${PARITY_WORLDS[@]}"; do
    start_world "$world"
    arguments+=(--world "$world=$(world_dir "$world")")
  done
  python3 "$INTEROP/spire/parity.py" --cli "stock=$SPIRE" --cli "ours=$RUN/ours" "${arguments[@]}" \
    --details "$RUN/parity" | tee -a "$CHECKS" || status=$?
  [[ $status -le 1 ]] || check FAIL parity.program "exit code $status"
}

world_dir() {
  echo "$RUN/w-${1/\//-}"
}

# start_world <command line>/<server and agent>
start_world() {
  local programs=$SPIRE dir token name=${1/\//-} port
  [[ ${1#*/} == stock* ]] || programs=$RUN/ours
  dir=$(world_dir "$1")
  port=$(free_port)
  mkdir -p "$dir/server" "$dir/agent"
  sed -e "s#@DIR@#$dir#g" -e "s#@PORT@#$port#g" "$INTEROP/spire/parity/server.conf.in" >"$dir/server.conf"
  sed -e "s#@DIR@#$dir#g" -e "s#@PORT@#$port#g" "$INTEROP/spire/parity/agent.conf.in" >"$dir/agent.conf"
  start "$name-server" "$programs/spire-server" run -config "$dir/server.conf"
  wait_for 180 "$STARTED" "$programs/spire-server" healthcheck -socketPath "$dir/server.sock" \
    || die "the server of $1 is not healthy"
  "$programs/spire-server" bundle show -socketPath "$dir/server.sock" >"$dir/bundle.pem" || die "no bundle in $1"
  token=$("$programs/spire-server" token generate -socketPath "$dir/server.sock" -spiffeID spiffe://parity.test/node \
    | sed -n 's/^Token: *//p')
  start "$name-agent" "$programs/spire-agent" run -config "$dir/agent.conf" -joinToken "$token"
  wait_for 180 "$STARTED" "$programs/spire-agent" healthcheck -socketPath "$dir/public/agent.sock" \
    || die "the agent of $1 is not healthy"
}
