# shellcheck shell=bash
# Suite `envoy`: Envoys that take certificates and validation contexts from the agent and speak mutual TLS to each other,
# under load, while leaves and roots rotate.

# shellcheck source=interop/envoy/domain.sh
source "$INTEROP/envoy/domain.sh"
# shellcheck source=interop/envoy/envoys.sh
source "$INTEROP/envoy/envoys.sh"
# shellcheck source=interop/envoy/rotation.sh
source "$INTEROP/envoy/rotation.sh"
# shellcheck source=interop/pins.sh
source "$INTEROP/pins.sh"

# The first root signs for about 50 s, then the next one that the server prepared by itself.
readonly CA_TTL=${INTEROP_CA_TTL:-75s} LEAF_TTL=${INTEROP_X509_TTL:-12s}
readonly LOAD_SECS=${INTEROP_LOAD_SECS:-90}
readonly SETTLE_SECS=120
readonly MIN_REQUESTS=300 MIN_LEAVES=4

run_suite() {
  check_pins
  envoy_install
  vouchsafe_binary
  start_domain a "$TD_A" "$CA_TTL" "$LEAF_TTL"
  start_domain b "$TD_B" 24h "$LEAF_TTL"
  ports
  start echo python3 -B "$INTEROP/envoy/echo.py" "$ECHO_PORT"
  start_envoy server a server
  start_envoy client a client
  check_unregistered
  register_all
  start_envoy plain a client
  start_envoy foreign b client
  check_identities
  check_contexts
  under_load
  check_accepted
  check_alive
  check_page
}

# Before there is an entry for them, Envoys get no certificate, so nothing listens and nobody gets through.
check_unregistered() {
  local certificates
  sleep 3 # several attempts
  certificates=$(admin server /certs | grep -c serial_number)
  if [[ $certificates -eq 0 ]] && ! ask client /open >/dev/null; then
    check ok unregistered "no certificate for an Envoy without an entry, and nobody gets through"
  else
    check FAIL unregistered "$certificates certificates"
  fi
}

# The server's entry comes first by its id, so it is the one called `default`.
register_all() {
  pass_bundle a "$TD_A" b && pass_bundle b "$TD_B" a || die "cannot federate"
  start federation keep_federated
  register a envoy-1 "spiffe://$TD_A/server" -federatesWith "spiffe://$TD_B"
  register a envoy-2 "spiffe://$TD_A/client"
  register a envoy-3 "spiffe://$TD_A/plain"
  register b envoy-1 "spiffe://$TD_B/client" -federatesWith "spiffe://$TD_A"
}

check_identities() {
  expect client /open "spiffe://$TD_A/client" "ROOTCA through the SPIFFE validator, against ALL"
  expect client /own "spiffe://$TD_A/client" "against ROOTCA"
  expect plain /open "spiffe://$TD_A/plain" "ROOTCA as plain trusted_ca"
  expect foreign /open "spiffe://$TD_B/client" "federated bundle by name, default certificate"
  # A listener that knows only its own trust domain closes on the other one's certificate.
  if ask foreign /own >/dev/null; then
    check FAIL foreign.refused "a client of $TD_B got through to a listener with ROOTCA"
  else
    check ok foreign.refused "ROOTCA does not let $TD_B in"
  fi
}

# expect <envoy> <path> <client id> <what for>
expect() {
  local name=$1$2
  if wait_for "$SETTLE_SECS" "${DOMAIN_PIDS[envoy-$1]}" answers "$1" "$2" "$3"; then
    check ok "mtls.${name//\//.}" "$4"
  else
    check FAIL "mtls.${name//\//.}" "$4: $(ask "$1" "$2" 2>&1 || true)"
  fi
}

answers() {
  [[ $(ask "$1" "$2") == *"uri=$3" ]]
}

# What the Envoys were given, as they show it themselves.
check_contexts() {
  local client plain server
  client=$(admin client '/config_dump?resource=dynamic_active_secrets')
  plain=$(admin plain '/config_dump?resource=dynamic_active_secrets')
  server=$(admin server '/config_dump?resource=dynamic_active_secrets')
  if [[ $client == *envoy.tls.cert_validator.spiffe* && $client != *'"trusted_ca"'* ]]; then
    check ok context.validator "an Envoy of today gets the SPIFFE validator"
  else
    check FAIL context.validator "no SPIFFE validator, or trusted_ca beside it"
  fi
  if [[ $plain == *'"trusted_ca"'* && $plain != *envoy.tls.cert_validator.spiffe* ]]; then
    check ok context.plain "disable_spiffe_cert_validation in a node's metadata gives trusted_ca"
  else
    check FAIL context.plain "no trusted_ca, or a validator beside it"
  fi
  if [[ $server == *"\"name\": \"$TD_A\""* && $server == *"\"name\": \"$TD_B\""* ]]; then
    check ok context.all "ALL names both trust domains"
  else
    check FAIL context.all "ALL lacks a trust domain"
  fi
}

# Nothing that was pushed was turned down.
check_accepted() {
  local name rejected updated
  for name in server client plain foreign; do
    rejected=$(admin "$name" '/stats?filter=sds.*update_rejected' | awk '{ sum += $2 } END { print sum + 0 }')
    updated=$(admin "$name" '/stats?filter=sds.*update_success' | awk '{ sum += $2 } END { print sum + 0 }')
    if [[ $rejected -eq 0 && $updated -ge $MIN_LEAVES ]]; then
      check ok "accepted.$name" "$updated updates, none rejected"
    else
      check FAIL "accepted.$name" "$updated updates, $rejected rejected"
    fi
  done
}

# The page that users follow, with this Envoy.
check_page() {
  local log=$RUN/logs/page.log
  [[ -f $ROOT/docs/envoy.md ]] || return 0
  if PATH=$CACHE/venv/bin:$PATH VOUCHSAFE_BIN=$VOUCHSAFE "$ROOT/docs/check" "$ROOT/docs/envoy.md" >"$log" 2>&1; then
    check ok page "docs/envoy.md: $(tail -n 1 "$log")"
  else
    check FAIL page "docs/envoy.md, see $log"
  fi
}
