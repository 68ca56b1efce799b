package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// chainWriter leaves every chain with the bundle it came with as PEM, named by the second it arrived, for `openssl verify`.
type chainWriter struct {
	dir  string
	next int
}

func newChainWriter() (*chainWriter, error) {
	dir := filepath.Join(mustEnv("INTEROP_OUT"), "chains")
	return &chainWriter{dir: dir}, os.MkdirAll(dir, 0o755)
}

func (w *chainWriter) write(received time.Time, chain, bundle []*x509.Certificate) error {
	w.next++
	stem := filepath.Join(w.dir, fmt.Sprintf("%d-%03d", received.Unix(), w.next))
	for suffix, certificates := range map[string][]*x509.Certificate{
		"leaf":          chain[:1],
		"intermediates": chain[1:],
		"bundle":        bundle,
	} {
		if err := os.WriteFile(stem+"."+suffix+".pem", encodePEM(certificates), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func encodePEM(certificates []*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, certificate := range certificates {
		// Writing to a bytes.Buffer cannot fail.
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
	}
	return out.Bytes()
}
