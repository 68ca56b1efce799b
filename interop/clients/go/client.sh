# shellcheck shell=bash
# go-spiffe v2, built in interop/go. go decides what is up to date, so there is no stamp.

go_install() {
  echo "building go" >&2
  env -C "$INTEROP/go" CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -o "$CACHE/interop-go" . \
    >"$RUN/logs/install-go.log" 2>&1 || die "cannot build interop/go"
}

go_command() {
  # shellcheck disable=SC2034 # the result, as start_client reads it
  COMMAND=("$CACHE/interop-go")
}
