# shellcheck shell=bash
# Suite `kubernetes`: everything that needs a real Kubernetes API server. Each test program starts etcd, kube-apiserver and
# kube-controller-manager of its own and ends them. Stock SPIRE is on the other end of node attestation.

# shellcheck source=interop/kubernetes/binaries.sh
source "$INTEROP/kubernetes/binaries.sh"
# shellcheck source=interop/spire/binaries.sh
source "$INTEROP/spire/binaries.sh"

run_suite() {
  [[ -x /usr/bin/etcd ]] || die "no /usr/bin/etcd: apt-get install etcd-server"
  kubernetes_binaries
  spire_binaries
  export STOCK_SPIRE=$SPIRE
  vouchsafe_binary
  export VOUCHSAFE_BIN=$VOUCHSAFE
  if [[ $# -eq 0 ]]; then
    kubernetes_tests vouchsafe-testkit --lib kubernetes
  fi
  kubernetes_scenarios "$@"
}

# kubernetes_tests <package> [targets and filter ...]: its tests that are ignored elsewhere because they need an API server.
kubernetes_tests() {
  local package=$1 log=$RUN/logs/$1.log status=0
  shift
  (cd "$ROOT" && cargo test --locked --package "$package" "$@" -- --ignored) >"$log" 2>&1 || status=$?
  rust_checks "$package" "$log" "$status"
}

# kubernetes_scenarios [filter ...]: crates/vouchsafe/tests/kubernetes with the binary under test.
kubernetes_scenarios() {
  local log=$RUN/logs/kubernetes.log status=0
  (cd "$ROOT" && cargo test --locked --package vouchsafe --test kubernetes -- --ignored --test-threads "$KUBERNETES_THREADS" "$@") \
    >"$log" 2>&1 || status=$?
  rust_checks kubernetes "$log" "$status"
}

readonly KUBERNETES_THREADS=${INTEROP_KUBERNETES_THREADS:-4}
