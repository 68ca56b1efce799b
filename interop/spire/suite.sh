# shellcheck shell=bash
# Suite `spire`: SPIRE's own server, agent and commands against ours.
#
# The scenarios (crates/vouchsafe/tests/scenarios) run with programs of ours on both ends, with a stock agent,
# with a stock server, and with the stock discovery provider. Then every command of SPIRE and of ours is run on both servers and agents, and compared.

# shellcheck source=interop/spire/binaries.sh
source "$INTEROP/spire/binaries.sh"
# shellcheck source=interop/spire/scenarios.sh
source "$INTEROP/spire/scenarios.sh"
# shellcheck source=interop/spire/parity.sh
source "$INTEROP/spire/parity.sh"
# shellcheck source=interop/spire/configuration.sh
source "$INTEROP/spire/configuration.sh"

run_suite() {
  local filters=("$@")
  vouchsafe_binary
  export VOUCHSAFE_BIN=$VOUCHSAFE
  spire_binaries
  scenario_program
  scenarios "ours" "" "" "${filters[@]}"
  scenarios "stock-agent" "" "$SPIRE/spire-agent" "${filters[@]}"
  scenarios "stock-server" "$SPIRE/spire-server" "" "${filters[@]}"
  SCENARIO_OIDC=$SPIRE/oidc-discovery-provider scenarios "stock-oidc" "" "" oidc::
  wait_for_scenarios
  [[ ${#filters[@]} -eq 0 ]] || return 0
  run_configuration
  run_parity
}
