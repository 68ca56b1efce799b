# shellcheck shell=bash
# Runs the scenarios (crates/vouchsafe/tests/scenarios) with a choice of programs.

# The scenarios, compiled. The programs that they run are others: see programs.rs there.
scenario_program() {
  SCENARIOS=$(cd "$ROOT" && cargo test --locked --package vouchsafe --test scenarios --no-run --message-format=json 2>"$RUN/logs/scenarios-build.log" \
    | sed -n 's/.*"executable":"\([^"]*scenarios-[^"]*\)".*/\1/p' | tail -n 1)
  [[ -x $SCENARIOS ]] || die "the scenarios do not build"
}

# scenarios <name> <stock server or nothing> <stock agent or nothing> [filter ...]: starts them; wait_for_scenarios reports.
scenarios() {
  local name=$1 server=$2 agent=$3
  shift 3
  start "scenarios-$name" with_programs "$server" "$agent" "${SCENARIO_OIDC:-}" --test-threads "$SCENARIO_THREADS" "$@"
  SETS+=("$name" "$STARTED" "$server" "$agent" "${SCENARIO_OIDC:-}")
}

# with_programs <stock server> <stock agent> <stock discovery provider> <argument of the test program ...>: in a subshell, in whose
# place it runs, so that ending it ends the program.
with_programs() {
  local server=$1 agent=$2 oidc=$3
  shift 3
  exec env SCENARIO_SERVER="$server" SCENARIO_AGENT="$agent" SCENARIO_OIDC="$oidc" "$SCENARIOS" "$@"
}

# Waits for all that were started. They wait for rotations and polls most of the time, so they run side by side.
wait_for_scenarios() {
  local name pid programs status
  set -- "${SETS[@]}"
  while [[ $# -gt 0 ]]; do
    name=$1 pid=$2 programs=("${@:3:3}") status=0
    shift 5
    wait "$pid" || status=$?
    rust_checks "$name" "$RUN/logs/scenarios-$name.log" "$status" with_programs "${programs[@]}" --include-ignored
  done
  SETS=()
}

SETS=()
readonly SCENARIO_THREADS=${INTEROP_SCENARIO_THREADS:-3}
