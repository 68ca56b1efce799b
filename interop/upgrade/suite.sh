# shellcheck shell=bash
# Suite `upgrade`: a stock server with its data is replaced by ours under running agents, stock and ours, and put back.

# shellcheck source=interop/spire/binaries.sh
source "$INTEROP/spire/binaries.sh"
# shellcheck source=interop/spire/scenarios.sh
source "$INTEROP/spire/scenarios.sh"

run_suite() {
  vouchsafe_binary
  export VOUCHSAFE_BIN=$VOUCHSAFE
  spire_binaries
  scenario_program
  scenarios "stock-agent" "$SPIRE/spire-server" "$SPIRE/spire-agent" --ignored upgrade::
  scenarios "our-agent" "$SPIRE/spire-server" "" --ignored upgrade::
  wait_for_scenarios
}
