# shellcheck shell=bash
# Shared by all suites: checks, processes, the cache of what is installed. Sourced by interop/run.

# A run's own directory, its checks and the processes it started. Nothing else is ever signalled or removed.
RUN=
CHECKS=
PIDS=()

begin() {
  RUN=$(mktemp -d "${TMPDIR:-/tmp}/vi.XXXXXX") # short: a Unix socket's path has room for 107 bytes
  chmod 0755 "$RUN"
  CHECKS=$RUN/checks
  mkdir "$RUN/logs"
  : >"$CHECKS"
  trap 'on_exit $?' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

on_exit() {
  local status=$1
  trap - EXIT INT TERM
  stop_all
  if [[ $status -eq 0 && -z ${INTEROP_KEEP:-} ]]; then
    rm -rf "$RUN"
  else
    echo "kept: $RUN"
  fi
  exit "$status"
}

# check ok|FAIL <name> <detail...>: one line on the terminal, one in the list that finish counts.
check() {
  printf '%s\n' "$*" | tee -a "$CHECKS"
}

# Ends the run: shows the logs when a check failed.
finish() {
  local passed failed
  passed=$(grep -c '^ok ' "$CHECKS" || true)
  failed=$(grep -c '^FAIL ' "$CHECKS" || true)
  if [[ $failed -gt 0 || $passed -eq 0 ]]; then
    dump_logs
    grep '^FAIL ' "$CHECKS" || true
  fi
  echo "$passed passed, $failed failed"
  [[ $failed -eq 0 && $passed -gt 0 ]] || exit 1
}

# A mistake or an obstacle outside of what is being checked.
die() {
  check FAIL suite "$*"
  finish
}

readonly LOG_LINES=${INTEROP_LOG_LINES:-120}

dump_logs() {
  local log
  for log in "$RUN"/logs/*.log; do
    [[ -s $log ]] || continue
    echo "--- ${log#"$RUN"/logs/} (last $LOG_LINES lines)"
    tail -n "$LOG_LINES" "$log"
  done
}

# start <name> <command...>: a background process with its own log; its pid is in STARTED.
STARTED=
start() {
  local name=$1
  shift
  "$@" >"$RUN/logs/$name.log" 2>&1 </dev/null &
  STARTED=$!
  PIDS+=("$STARTED")
}

running() {
  kill -0 "$1" 2>/dev/null
}

readonly STOP_GRACE_TENTHS=80

# Ends what this run started, by pid: politely, then not.
stop_all() {
  local pid tenths=0
  for pid in "${PIDS[@]}"; do
    kill -TERM "$pid" 2>/dev/null || true
  done
  for pid in "${PIDS[@]}"; do
    while running "$pid" && [[ $tenths -lt $STOP_GRACE_TENTHS ]]; do
      sleep 0.1
      tenths=$((tenths + 1))
    done
    if running "$pid"; then kill -KILL "$pid" 2>/dev/null || true; fi
    wait "$pid" 2>/dev/null || true
  done
  PIDS=()
}

# wait_for <seconds> <pid> <command...>: until the command succeeds, the process is gone, or the time is over.
wait_for() {
  local until=$((SECONDS + $1)) pid=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    running "$pid" && [[ $SECONDS -lt $until ]] || return 1
    sleep 0.2
  done
}

# A TCP port of the loopback interface on which nobody listens.
free_port() {
  local port
  while :; do
    port=$((RANDOM % 20000 + 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

# The command prefix that runs a program as another user. The one capability lets that user read programs under a private
# home directory; the Workload API sees only the uid.
as_uid() {
  # shellcheck disable=SC2034 # the result, as the caller reads it
  AS_UID=(setpriv "--reuid=$1" --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search)
}

# What is installed lives in one directory for each state of the lock files, so a changed pin never meets an old install.
cache_dir() {
  local version
  version=$(cat "$INTEROP"/clients/*/requirements.txt "$INTEROP"/clients/*/package-lock.json \
    "$INTEROP"/go/go.sum "$INTEROP"/rust/Cargo.lock | sha256sum | cut -c1-12)
  echo "$HOME/.cache/vouchsafe-interop-$version"
}

# once <name> <command...>: runs an install step unless it has completed before in this cache.
once() {
  local name=$1 stamp=$CACHE/.$1.done
  shift
  [[ -e $stamp ]] && return
  echo "installing $name" >&2
  "$@" >"$RUN/logs/install-$name.log" 2>&1 || die "cannot install $name"
  touch "$stamp"
}

# The binary under test: VOUCHSAFE_BIN, or a release build.
vouchsafe_binary() {
  if [[ -n ${VOUCHSAFE_BIN:-} ]]; then
    VOUCHSAFE=$(realpath "$VOUCHSAFE_BIN")
  else
    (cd "$ROOT" && cargo build --release --locked --package vouchsafe) || die "vouchsafe does not build"
    VOUCHSAFE=${CARGO_TARGET_DIR:-$ROOT/target}/release/vouchsafe
  fi
  [[ -x $VOUCHSAFE ]] || die "no executable at $VOUCHSAFE"
}
