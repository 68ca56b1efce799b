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
  start "scenarios-$name" env SCENARIO_SERVER="$server" SCENARIO_AGENT="$agent" \
    "$SCENARIOS" --test-threads "$SCENARIO_THREADS" "$@"
  SETS+=("$name=$STARTED")
}

# Waits for all that were started. They wait for rotations and polls most of the time, so they run side by side.
wait_for_scenarios() {
  local entry name status log test outcome
  for entry in "${SETS[@]}"; do
    name=${entry%=*} status=0
    wait "${entry#*=}" || status=$?
    log=$RUN/logs/scenarios-$name.log
    rust_checks "$name" "$log" "$status"
  done
  SETS=()
}

SETS=()
readonly SCENARIO_THREADS=${INTEROP_SCENARIO_THREADS:-3}
