package main

import (
	"fmt"
	"os"
	"sync"
)

// report prints each check once. The first verdict on a name stands, so a late `ok` cannot cover an earlier `FAIL`.
type report struct {
	mu     sync.Mutex
	done   map[string]bool
	failed int
}

func newReport() *report {
	return &report{done: map[string]bool{}}
}

func (r *report) ok(name, format string, args ...any) {
	r.record(true, name, fmt.Sprintf(format, args...))
}

func (r *report) fail(name, format string, args ...any) {
	r.record(false, name, fmt.Sprintf(format, args...))
}

func (r *report) record(passed bool, name, detail string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done[name] {
		return
	}
	r.done[name] = true
	word := "ok"
	if !passed {
		word = "FAIL"
		r.failed++
	}
	fmt.Printf("%s %s %s\n", word, name, detail)
}

func (r *report) settled(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done[name]
}

func (r *report) finish() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.done) == 0 {
		fmt.Fprintln(os.Stderr, "no check ran")
		return 1
	}
	if r.failed > 0 {
		return 1
	}
	return 0
}
