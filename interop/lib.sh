# shellcheck shell=bash
# Shared by all suites: checks, processes, the cache of what is installed. Sourced by interop/run.

# A run's own directory, its checks and the processes it started. Nothing else is ever signalled or removed.
RUN=
CHECKS=
PIDS=()

begin() {
  RUN=$(mktemp -d "$(place)/vi.XXXXXX") # short: a Unix socket's path has room for 107 bytes
  chmod 0755 "$RUN"
  CHECKS=$RUN/checks
  mkdir "$RUN/logs"
  : >"$CHECKS"
  trap 'on_exit $?' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# In memory where there is room (as crates/testkit/src/folders.rs): servers flush what they write and give up after some
# seconds, which one flush may last on a disk that is busy with what was just compiled.
place() {
  local free
  free=$(df --output=avail --block-size=1M /dev/shm 2>/dev/null | tail -n 1)
  if [[ -z ${TMPDIR:-} && -w /dev/shm && ${free:-0} -ge 1024 ]]; then echo /dev/shm; else echo "${TMPDIR:-/tmp}"; fi
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

# Ends the run: when a check failed, shows the logs, and last what is known of each failure, since of a long output often
# only the end is seen.
finish() {
  local passed failed
  passed=$(grep -c '^ok ' "$CHECKS" || true)
  failed=$(grep -c '^FAIL ' "$CHECKS" || true)
  if [[ $failed -gt 0 || $passed -eq 0 ]]; then
    dump_logs
    [[ ! -s $RUN/causes ]] || tail -n "$CAUSE_LINES_TOTAL" "$RUN/causes"
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

readonly LOG_LINES=${INTEROP_LOG_LINES:-120} CAUSE_LINES_TOTAL=240

# rust_failed <name of the check> <log of a test program> <test> <outcome>: the check, right after what the test said when it
# failed: CI shows some twenty lines around a failure. The end of the logs that the test printed comes with the causes, at the end.
rust_failed() {
  local section=$RUN/section
  awk -v "head=---- $3 stdout ----" '$0 == head { on = 1; print; next } /^---- .* stdout ----$|^failures:$/ { on = 0 } on' \
    "$2" >"$section"
  {
    echo "--- $3: the end of what it logged"
    sed -n '/^--- /,$p' "$section" | sed '/^$/d' | tail -n 60
    rust_panic "$section" 40
    check FAIL "$1" "$4"
  } | cut -c 1-600 >>"$RUN/causes"
  sed -n '/^--- /,$p' "$section" | sed '/^$/d' | tail -n 6 | cut -c 1-300
  rust_panic "$section" 12 | cut -c 1-600
  printf 'FAIL %s %s\n' "$1" "$4"
}

# rust_panic <section> <lines>: up to the backtrace. The first line has the place, those that follow have the words.
rust_panic() {
  sed -e '/^stack backtrace:/,$d' -e '/^--- /,$d' -e '/^$/d' "$1" | head -n "$2"
}

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

# rust_checks <name> <log of a test program> <its exit status>: a check for each test; those that failed come last. That no
# test ran is a failure too.
rust_checks() {
  local name=$1 log=$2 status=$3 test outcome failed=() ran=0
  while read -r _ test _ outcome _; do
    case $outcome in
      ok)
        ran=1
        check ok "$name.${test//::/.}"
        ;;
      ignored*) ;;
      *) failed+=("$test $outcome") ;;
    esac
  done < <(grep '^test .* \.\.\. ' "$log")
  for test in "${failed[@]}"; do
    rust_failed "$name.$(tr -s : . <<<"${test%% *}")" "$log" "${test%% *}" "${test#* }"
  done
  if [[ $status -ne 0 && ${#failed[@]} -eq 0 ]]; then
    tail -n 40 "$log" | tee -a "$RUN/causes"
    check FAIL "$name" "exit code $status, see $log"
  elif [[ $ran -eq 0 && ${#failed[@]} -eq 0 ]]; then
    check FAIL "$name" "no test ran, see $log"
  fi
}

# A TCP port on which nobody listens, and which nobody else who asks gets: crates/testkit/src/ports.rs has the same file,
# the same numbers, and the reasons.
free_port() {
  local file port
  file=/tmp/vouchsafe-ports-$(id -u)
  {
    flock 8
    read -r port <&8 || true
    [[ $port =~ ^[1-9][0-9]{4}$ ]] || port=0
    while :; do
      port=$((port + 1))
      [[ $port -ge 12000 && $port -lt 32000 ]] || port=12000
      (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port" >"$file"
  } 8<>"$file"
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
