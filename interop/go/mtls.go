package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// The two ends speak lines: whatever the dialer sends comes back. It holds one connection throughout and opens a new one
// each second, until both ends hold SVIDs of a second authority and `afterRotation` further connections have worked.
const (
	heldEvery     = 250 * time.Millisecond
	newEvery      = time.Second
	afterRotation = 8
	lineTimeout   = 30 * time.Second
)

// mtlsServeMode echoes until it is ended, and leaves its address in INTEROP_OUT/address.
func mtlsServeMode(r *report) {
	ctx := context.Background()
	listener, err := spiffetls.Listen(ctx, "tcp", "127.0.0.1:0", tlsconfig.AuthorizeID(peerID()))
	if err != nil {
		r.fail("serve", "%v", err)
		return
	}
	if err := publishAddress(listener.Addr().String()); err != nil {
		r.fail("serve", "%v", err)
		return
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			r.fail("serve", "%v", err)
			return
		}
		go func() {
			defer conn.Close()
			if _, err := io.Copy(conn, conn); err != nil {
				fmt.Fprintf(os.Stderr, "connection from %s: %v\n", conn.RemoteAddr(), err)
			}
		}()
	}
}

func peerID() spiffeid.ID {
	return spiffeid.RequireFromString(mustEnv("INTEROP_PEER_ID"))
}

// publishAddress renames a complete file into place, so that a reader never sees half an address.
func publishAddress(address string) error {
	path := filepath.Join(mustEnv("INTEROP_OUT"), "address")
	if err := os.WriteFile(path+".new", []byte(address), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// dialer counts what one run over a rotation of the CA has seen.
type dialer struct {
	report      *report
	source      *workloadapi.X509Source
	address     string
	chains      *chainWriter
	heldLines   int
	connections int
	lastSerial  string
	ownIssuers  map[string]bool
	peerIssuers map[string]bool
	sinceBoth   int
}

func mtlsDialMode(r *report) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline())
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		r.fail("mtls.held", "source: %v", err)
		return
	}
	defer source.Close()
	chains, err := newChainWriter()
	if err != nil {
		r.fail("mtls.held", "%v", err)
		return
	}
	d := &dialer{
		report:      r,
		source:      source,
		address:     mustEnv("INTEROP_PEER_ADDRESS"),
		chains:      chains,
		ownIssuers:  map[string]bool{},
		peerIssuers: map[string]bool{},
	}
	d.run(ctx)
}

func (d *dialer) run(ctx context.Context) {
	held, err := d.connect(ctx)
	if err != nil {
		d.report.fail("mtls.held", "first connection: %v", err)
		return
	}
	defer held.Close()
	heldTicker, newTicker := time.NewTicker(heldEvery), time.NewTicker(newEvery)
	defer heldTicker.Stop()
	defer newTicker.Stop()
	reader := bufio.NewReader(held)
	for ctx.Err() == nil && d.sinceBoth < afterRotation {
		select {
		case <-ctx.Done():
		case <-heldTicker.C:
			if err := exchange(held, reader); err != nil {
				d.report.fail("mtls.held", "after %d lines: %v", d.heldLines, err)
				return
			}
			d.heldLines++
		case <-newTicker.C:
			if err := d.once(ctx); err != nil {
				d.report.fail("mtls.new", "connection %d: %v", d.connections+1, err)
				return
			}
		}
	}
	rotated, during := d.sinceBoth >= afterRotation, "over a rotation of the CA"
	if !rotated {
		during = "but the CA did not rotate at both ends"
	}
	settle(d.report, "mtls.held", rotated, "%d lines on one connection, %s", d.heldLines, during)
	settle(d.report, "mtls.new", rotated, "%d connections, %s", d.connections, during)
	settle(d.report, "mtls.ca-rotation", rotated, "own SVIDs of %d authorities, the peer's of %d", len(d.ownIssuers), len(d.peerIssuers))
}

// once opens a connection, exchanges a line and closes it.
func (d *dialer) once(ctx context.Context) error {
	conn, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := exchange(conn, bufio.NewReader(conn)); err != nil {
		return err
	}
	d.connections++
	own, err := d.source.GetX509SVID()
	if err != nil {
		return err
	}
	d.ownIssuers[hex.EncodeToString(own.Certificates[0].AuthorityKeyId)] = true
	if err := d.inspect(conn); err != nil {
		return err
	}
	if len(d.ownIssuers) >= 2 && len(d.peerIssuers) >= 2 {
		d.sinceBoth++
	}
	return nil
}

func (d *dialer) connect(ctx context.Context) (net.Conn, error) {
	mode := spiffetls.MTLSClientWithSource(tlsconfig.AuthorizeID(peerID()), d.source)
	return spiffetls.DialWithMode(ctx, "tcp", d.address, mode)
}

// inspect notes the peer's authority, and keeps each new chain of the peer for `openssl verify`.
func (d *dialer) inspect(conn net.Conn) error {
	stateful, is := conn.(interface{ ConnectionState() tls.ConnectionState })
	if !is {
		return fmt.Errorf("%T has no connection state", conn)
	}
	chain := stateful.ConnectionState().PeerCertificates
	d.peerIssuers[hex.EncodeToString(chain[0].AuthorityKeyId)] = true
	if serial := chain[0].SerialNumber.String(); serial != d.lastSerial {
		d.lastSerial = serial
		bundle, err := d.source.GetX509BundleForTrustDomain(peerID().TrustDomain())
		if err != nil {
			return err
		}
		return d.chains.write(time.Now(), chain, bundle.X509Authorities())
	}
	return nil
}

func exchange(conn net.Conn, reader *bufio.Reader) error {
	if err := conn.SetDeadline(time.Now().Add(lineTimeout)); err != nil {
		return err
	}
	line := rand.Text() + "\n"
	if _, err := io.WriteString(conn, line); err != nil {
		return err
	}
	back, err := reader.ReadString('\n')
	if err != nil {
		return err
	}
	if back != line {
		return fmt.Errorf("sent %q, got back %q", line, back)
	}
	return nil
}
