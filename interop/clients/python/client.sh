# shellcheck shell=bash
# PyPI `spiffe`: gRPC C-core, which sends an :authority that stock h2 refuses.

python_install() {
  once python install_into_venv
}

install_into_venv() {
  python3 -m venv --clear "$CACHE/venv" \
    && "$CACHE/venv/bin/pip" install --quiet --no-deps --requirement "$INTEROP/clients/python/requirements.txt"
}

python_command() {
  # shellcheck disable=SC2034 # the result, as start_client reads it
  COMMAND=("$CACHE/venv/bin/python" -B "$INTEROP/clients/python/workload.py")
}
