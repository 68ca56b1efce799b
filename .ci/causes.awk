# Passes the output of `cargo test` on, but holds the line of a test that failed back until the test has said why: whoever reads
# CI's output sees some lines around the failure, and what the test said comes only after all the others.

/^test .* \.\.\. FAILED$/ { held[$2] = $0; next }

/^---- .* stdout ----$/ { tell(); failed = $2 }

{ print; fflush() }

/^stack backtrace:$|^note: |^failures:$|^test result: / { tell() }

function tell() {
  if (failed in held) print held[failed]
  delete held[failed]
  failed = ""
}

END { tell(); for (name in held) print held[name] }
