# shellcheck shell=bash
# Stock SPIRE programs, compiled once from the modules that interop/spire/tools/go.sum pins.

# Sets SPIRE to the directory that holds spire-server, spire-agent and oidc-discovery-provider.
spire_binaries() {
  local version
  version=$(cat "$INTEROP"/spire/tools/go.{mod,sum} | sha256sum | cut -c1-12)
  SPIRE=$HOME/.cache/vouchsafe-spire-$version
  mkdir -p "$SPIRE"
  exec 8>"$SPIRE/.lock"
  flock 8
  [[ -e $SPIRE/.done ]] || compile_spire
  flock -u 8
  exec 8>&-
}

compile_spire() {
  echo "compiling SPIRE, some minutes" >&2
  (cd "$INTEROP/spire/tools" && go build -trimpath -ldflags='-s -w' -o "$SPIRE/" tool) >"$RUN/logs/spire-build.log" 2>&1 \
    || die "SPIRE does not build"
  touch "$SPIRE/.done"
}
