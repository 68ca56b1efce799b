# shellcheck shell=bash
# pins.txt says what is used and why; this keeps it true to the lock files.

check_pins() {
  local name version registry file wrong=()
  while read -r name version registry _ file _; do
    [[ -z $name || $name == \#* ]] || locked "$registry" "$name" "$version" "$INTEROP/$file" || wrong+=("$name $version")
  done <"$INTEROP/pins.txt"
  [[ ${#wrong[@]} -eq 0 ]] || die "pins.txt disagrees with the lock files: ${wrong[*]}"
  check ok suite.pins "pins.txt agrees with the lock files"
}

# locked <registry> <name> <version> <lock file>
locked() {
  case $1 in
    PyPI) sed 's/ \\$//' "$4" | grep -qFx -- "$2==$3" ;;
    crates) grep -A1 -Fx -- "name = \"$2\"" "$4" | grep -qFx -- "version = \"$3\"" ;;
    Go) grep -q -F -- "$2 $3 h1:" "$4" ;;
    npm) grep -A1 -F -- "\"node_modules/$2\": {" "$4" | grep -q -F -- "\"version\": \"$3\"" ;;
    *) return 1 ;;
  esac
}
