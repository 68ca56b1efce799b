# shellcheck shell=bash
# crates `spiffe` and `spiffe-rustls`, built in interop/rust. cargo decides what is up to date, so there is no stamp.

rust_install() {
  local target=${CARGO_TARGET_DIR:-$CACHE/rust-target}
  RUST_BINARY=$target/release/interop-rust
  echo "building rust" >&2
  (cd "$INTEROP/rust" && CARGO_TARGET_DIR=$target cargo build --release --locked) \
    >"$RUN/logs/install-rust.log" 2>&1 || die "cannot build interop/rust"
}

rust_command() {
  # shellcheck disable=SC2034 # the result, as start_client reads it
  COMMAND=("$RUST_BINARY")
}
