package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// x509Watch judges the X509-SVID stream: each update must verify, and replace the one before it in time.
type x509Watch struct {
	report    *report
	id        spiffeid.ID
	rotations int
	chains    *chainWriter
	mu        sync.Mutex
	last      *x509svid.SVID
	seenRoots map[string]bool // key ids of the authorities of all earlier updates
	issuers   map[string]bool
	serials   map[string]bool
}

func newX509Watch(r *report, id spiffeid.ID) (*x509Watch, error) {
	chains, err := newChainWriter()
	return &x509Watch{
		report:    r,
		id:        id,
		rotations: mustEnvInt("INTEROP_ROTATIONS"),
		chains:    chains,
		seenRoots: map[string]bool{},
		issuers:   map[string]bool{},
		serials:   map[string]bool{},
	}, err
}

func fetchX509(ctx context.Context, r *report, client *workloadapi.Client, id spiffeid.ID) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	svids, err := client.FetchX509SVIDs(ctx)
	if err != nil {
		r.fail("x509.fetch", "%v", err)
		return
	}
	if svids[0].ID != id {
		r.fail("x509.fetch", "the default SVID is %s, not %s", svids[0].ID, id)
		return
	}
	second := slices.IndexFunc(svids, func(svid *x509svid.SVID) bool { return svid.ID.String() == mustEnv("INTEROP_SECOND_ID") })
	if second < 0 {
		r.fail("x509.fetch", "%d SVIDs, none of them %s", len(svids), mustEnv("INTEROP_SECOND_ID"))
		return
	}
	if svids[second].Hint != mustEnv("INTEROP_SECOND_HINT") {
		r.fail("x509.fetch", "hint %q", svids[second].Hint)
		return
	}
	if names := svids[second].Certificates[0].DNSNames; !slices.Equal(names, []string{mustEnv("INTEROP_SECOND_DNS")}) {
		r.fail("x509.fetch", "DNS names %v", names)
		return
	}
	r.ok("x509.fetch", "%s and %s", id, svids[second].ID)
}

// take judges one update. Verification is go-spiffe's own, against the bundle that came in the same message.
func (w *x509Watch) take(now time.Time, update *workloadapi.X509Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	svid := update.DefaultSVID()
	bundle, found := update.Bundles.Get(w.id.TrustDomain())
	if !found {
		w.report.fail("x509.watch", "an update without the bundle of %s", w.id.TrustDomain())
		return
	}
	roots := bundle.X509Authorities()
	for _, each := range update.SVIDs {
		if _, _, err := x509svid.Verify(each.Certificates, bundle); err != nil {
			w.report.fail("x509.watch", "%s does not verify: %v", each.ID, err)
		}
		if err := w.chains.write(now, each.Certificates, roots); err != nil {
			w.report.fail("x509.watch", "%v", err)
		}
	}
	if err := w.judge(now, svid); err != nil {
		w.report.fail("x509.watch", "%v", err)
	}
	issuer := hex.EncodeToString(svid.Certificates[0].AuthorityKeyId)
	if len(w.issuers) > 0 && !w.issuers[issuer] && !w.seenRoots[issuer] {
		w.report.fail("x509.ca-rotation", "authority %s signed an SVID before any bundle held it", issuer)
	}
	w.issuers[issuer] = true
	w.serials[svid.Certificates[0].SerialNumber.String()] = true
	for _, root := range roots {
		w.seenRoots[hex.EncodeToString(root.SubjectKeyId)] = true
	}
	w.last = svid
}

func (w *x509Watch) judge(now time.Time, svid *x509svid.SVID) error {
	leaf := svid.Certificates[0]
	switch {
	case svid.ID != w.id:
		return fmt.Errorf("the default SVID became %s", svid.ID)
	case now.After(leaf.NotAfter):
		return fmt.Errorf("received %s after its end", svid.ID)
	case w.last != nil && now.After(w.last.Certificates[0].NotAfter):
		return fmt.Errorf("the next SVID came %s after the end of the last", now.Sub(w.last.Certificates[0].NotAfter))
	}
	return nil
}

func (w *x509Watch) enough() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.serials) > w.rotations && len(w.issuers) >= 2
}

func (w *x509Watch) settle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := max(len(w.serials)-1, 0)
	settle(w.report, "x509.watch", seen >= w.rotations, "%d rotations", seen)
	settle(w.report, "x509.ca-rotation", len(w.issuers) >= 2, "SVIDs of %d authorities", len(w.issuers))
}

// fingerprints identifies a set of certificates whatever their order.
func fingerprints(certificates []*x509.Certificate) string {
	var all []string
	for _, certificate := range certificates {
		sum := sha256.Sum256(certificate.Raw)
		all = append(all, hex.EncodeToString(sum[:]))
	}
	sort.Strings(all)
	return strings.Join(all, " ")
}

func keyIDs(bundle *jwtbundle.Bundle) string {
	var all []string
	for kid := range bundle.JWTAuthorities() {
		all = append(all, kid)
	}
	sort.Strings(all)
	return strings.Join(all, " ")
}
