// Command interop-go drives a SPIFFE Workload API with go-spiffe v2, a client nobody here wrote.
//
// Each mode prints one line per check, `ok <name> <detail>` or `FAIL <name> <detail>`, and exits non-zero if one failed.
// The environment names the socket (SPIFFE_ENDPOINT_SOCKET) and what to expect (INTEROP_*); see interop/README.md.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: interop-go watch|denied|no-header|mtls-serve|mtls-dial")
		os.Exit(2)
	}
	modes := map[string]func(*report){
		"watch":      watchMode,
		"denied":     deniedMode,
		"no-header":  noHeaderMode,
		"mtls-serve": mtlsServeMode,
		"mtls-dial":  mtlsDialMode,
	}
	mode, known := modes[os.Args[1]]
	if !known {
		fmt.Fprintf(os.Stderr, "unknown mode %q\n", os.Args[1])
		os.Exit(2)
	}
	r := newReport()
	mode(r)
	os.Exit(r.finish())
}

// mustEnv ends the program when the suite did not set a variable: a default would hide a mistake in the suite.
func mustEnv(name string) string {
	value := os.Getenv(name)
	if value == "" {
		fmt.Fprintf(os.Stderr, "%s is not set\n", name)
		os.Exit(2)
	}
	return value
}

func mustEnvInt(name string) int {
	value, err := strconv.Atoi(mustEnv(name))
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(2)
	}
	return value
}

// callTimeout bounds one call that answers at once when all is well.
const callTimeout = 60 * time.Second

// deadline is how long a whole mode may take to see what it waits for.
func deadline() time.Duration {
	return time.Duration(mustEnvInt("INTEROP_DEADLINE_SECS")) * time.Second
}
