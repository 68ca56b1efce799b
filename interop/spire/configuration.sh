# shellcheck shell=bash
# Part of the suite `spire`: SPIRE's reference configuration files and the metrics of its dashboard.

# Needs VOUCHSAFE and the modules of interop/spire/tools.
run_configuration() {
  local module line
  module=$(cd "$INTEROP/spire/tools" && go list -m -f '{{.Dir}}' github.com/spiffe/spire)
  [[ -d $module ]] || die "the sources of SPIRE are not in the module cache"
  while read -r line; do
    # shellcheck disable=SC2086
    check $line
  done < <(python3 "$INTEROP/spire/configuration.py" "$module" "$VOUCHSAFE"; python3 "$INTEROP/spire/dashboard.py" "$module")
}
