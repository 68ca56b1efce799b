# go-spiffe v2, built in interop/go.

go_install() {
  once go env -C "$INTEROP/go" CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -o "$CACHE/interop-go" .
}

go_command() {
  COMMAND=("$CACHE/interop-go")
}
