# shellcheck shell=bash
# @grpc/grpc-js from npm. node_modules lies in the cache with a copy of the sources beside it, where node looks for it.

node_install() {
  mkdir -p "$CACHE/node"
  cp "$INTEROP"/clients/node/{package.json,package-lock.json,workload.proto,*.js} "$CACHE/node/"
  once node npm ci --prefix "$CACHE/node" --ignore-scripts --no-audit --no-fund
}

node_command() {
  # shellcheck disable=SC2034 # the result, as start_client reads it
  COMMAND=(node "$CACHE/node/workload.js")
}
