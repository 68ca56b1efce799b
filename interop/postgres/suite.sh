# shellcheck shell=bash
# Suite `postgres`: what needs a real PostgreSQL. The store's conformance suite and its faults, several of our servers on one
# database, and SPIRE's data in PostgreSQL taken over. Each test starts a private PostgreSQL and ends it.

# shellcheck source=interop/spire/scenarios.sh
source "$INTEROP/spire/scenarios.sh"

run_suite() {
  vouchsafe_binary
  export VOUCHSAFE_BIN=$VOUCHSAFE
  scenario_program
  tests vouchsafe-store --test conformance --test postgres
  tests vouchsafe-testkit --lib postgres
  scenarios "several-servers" "" "" --ignored several_servers::
  wait_for_scenarios
}

# tests <package> <targets ...>: its tests that are ignored elsewhere because they need PostgreSQL.
tests() {
  local package=$1 log=$RUN/logs/$1.log status=0
  shift
  (cd "$ROOT" && cargo test --locked --package "$package" "$@" -- --ignored) >"$log" 2>&1 || status=$?
  rust_checks "$package" "$log" "$status"
}
