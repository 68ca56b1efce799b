# shellcheck shell=bash
# OpenSSL's opinion of every chain that any client received, at the second it was received.

readonly MIN_CHAINS=4

check_chains() {
  local dir
  make_stranger
  for dir in "$RUN"/out/*/chains; do
    [[ -d $dir ]] || die "no client left a chain"
    check_chains_of "$(basename "$(dirname "$dir")")" "$dir"
  done
}

# A CA that signed none of them: with it, verification has to fail.
make_stranger() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /O=stranger \
    -keyout "$RUN/stranger.key" -out "$RUN/stranger.pem" >"$RUN/logs/openssl.log" 2>&1 || die "openssl cannot make a CA"
}

check_chains_of() {
  local client=$1 dir=$2 leaf stem purpose chains=0 failed=0
  for leaf in "$dir"/*.leaf.pem; do
    [[ -s $leaf ]] || break
    stem=${leaf%.leaf.pem}
    chains=$((chains + 1))
    for purpose in sslclient sslserver; do
      verify_chain "$stem" "$stem.bundle.pem" 0 -purpose "$purpose" || failed=$((failed + 1))
    done
    # The same call must be able to say no: to a strange CA, and to a time outside the certificate's life.
    ! verify_chain "$stem" "$RUN/stranger.pem" 0 || failed=$((failed + 1))
    ! verify_chain "$stem" "$stem.bundle.pem" 7200 || failed=$((failed + 1))
    follows_profile "$leaf" || failed=$((failed + 1))
  done
  if [[ $failed -eq 0 && $chains -ge $MIN_CHAINS ]]; then
    check ok "$client.openssl" "$chains chains"
  else
    check FAIL "$client.openssl" "$chains chains, $failed verdicts were wrong; see openssl.log"
  fi
}

# verify_chain <stem> <trusted> <seconds later> [option...]
verify_chain() {
  local stem=$1 trusted=$2 at untrusted=()
  at=$(basename "$stem")
  at=$((${at%%-*} + $3))
  shift 3
  [[ ! -s $stem.intermediates.pem ]] || untrusted=(-untrusted "$stem.intermediates.pem")
  openssl verify -x509_strict -attime "$at" -no-CApath -no-CAstore -CAfile "$trusted" "${untrusted[@]}" "$@" \
    "$stem.leaf.pem" >>"$RUN/logs/openssl.log" 2>&1
}

# The X509-SVID standard (§4) and SPIRE's profile, as OpenSSL prints them.
follows_profile() {
  local text line
  text=$(openssl x509 -in "$1" -noout -subject -nameopt RFC2253 -text) || return 1
  for line in 'X509v3 Basic Constraints: critical' 'CA:FALSE' 'X509v3 Key Usage: critical' \
    'Digital Signature, Key Encipherment, Key Agreement' 'TLS Web Server Authentication, TLS Web Client Authentication' \
    "URI:spiffe://$TD/" 'X509v3 Authority Key Identifier' 'X509v3 Subject Key Identifier'; do
    if [[ $text != *"$line"* ]]; then
      echo "$1: no '$line' in it" >>"$RUN/logs/openssl.log"
      return 1
    fi
  done
  [[ $(grep -o 'URI:' <<<"$text" | wc -l) -eq 1 ]] || { echo "$1: not exactly one URI" >>"$RUN/logs/openssl.log" && return 1; }
}
