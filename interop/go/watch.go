package main

import (
	"context"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// watcher follows all three streams of one client and judges each message as it arrives.
type watcher struct {
	report    *report
	td        spiffeid.TrustDomain
	x509      *x509Watch
	mu        sync.Mutex
	rootSets  map[string]bool
	jwtKeys   map[string]bool
	jwtSets   map[string]bool
	jwtBundle *jwtbundle.Set
	ending    bool
}

func watchMode(r *report) {
	ends := time.Now().Add(deadline())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := workloadapi.New(ctx)
	if err != nil {
		r.fail("x509.fetch", "client: %v", err)
		return
	}
	defer client.Close()
	id := spiffeid.RequireFromString(mustEnv("INTEROP_ID"))
	x509Watch, err := newX509Watch(r, id)
	if err != nil {
		r.fail("x509.fetch", "%v", err)
		return
	}
	fetchX509(ctx, r, client, id)
	w := &watcher{
		report:   r,
		td:       id.TrustDomain(),
		x509:     x509Watch,
		rootSets: map[string]bool{},
		jwtKeys:  map[string]bool{},
		jwtSets:  map[string]bool{},
	}
	w.follow(ctx, cancel, ends, client, newJWTProbe(r, client, id))
}

// follow runs the streams until every part has seen enough, or the deadline.
func (w *watcher) follow(ctx context.Context, cancel func(), ends time.Time, client *workloadapi.Client, jwt *jwtProbe) {
	var streams sync.WaitGroup
	streams.Go(func() { _ = client.WatchX509Context(ctx, w) })
	streams.Go(func() { _ = client.WatchX509Bundles(ctx, w) })
	streams.Go(func() { _ = client.WatchJWTBundles(ctx, w) })
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for range ticker.C {
		jwt.tick(ctx, w.latestJWTBundles())
		if time.Now().After(ends) || (w.x509.enough() && w.bundlesEnough() && jwt.enough()) {
			break
		}
	}
	w.mu.Lock()
	w.ending = true
	w.mu.Unlock()
	jwt.settle(ctx)
	cancel()
	streams.Wait()
	w.x509.settle()
	w.settleBundles()
}

func (w *watcher) latestJWTBundles() *jwtbundle.Set {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.jwtBundle
}

// OnX509ContextUpdate implements workloadapi.X509ContextWatcher.
func (w *watcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	w.x509.take(time.Now(), update)
}

// OnX509ContextWatchError implements workloadapi.X509ContextWatcher.
func (w *watcher) OnX509ContextWatchError(err error) {
	w.broken("x509.watch", err)
}

// OnX509BundlesUpdate implements workloadapi.X509BundleWatcher.
func (w *watcher) OnX509BundlesUpdate(set *x509bundle.Set) {
	bundle, found := set.Get(w.td)
	if !found || len(bundle.X509Authorities()) == 0 {
		w.report.fail("x509.bundles.watch", "no authorities for %s", w.td)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rootSets[fingerprints(bundle.X509Authorities())] = true
}

// OnX509BundlesWatchError implements workloadapi.X509BundleWatcher.
func (w *watcher) OnX509BundlesWatchError(err error) {
	w.broken("x509.bundles.watch", err)
}

// OnJWTBundlesUpdate implements workloadapi.JWTBundleWatcher.
func (w *watcher) OnJWTBundlesUpdate(set *jwtbundle.Set) {
	bundle, found := set.Get(w.td)
	if !found || bundle.Empty() {
		w.report.fail("jwt.bundles.watch", "no keys for %s", w.td)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.jwtBundle = set
	w.jwtSets[keyIDs(bundle)] = true
	for kid := range bundle.JWTAuthorities() {
		w.jwtKeys[kid] = true
	}
}

// OnJWTBundlesWatchError implements workloadapi.JWTBundleWatcher.
func (w *watcher) OnJWTBundlesWatchError(err error) {
	w.broken("jwt.bundles.watch", err)
}

// broken fails a check when its stream ended before this client closed it: go-spiffe would hide that by reconnecting.
func (w *watcher) broken(check string, err error) {
	w.mu.Lock()
	ending := w.ending
	w.mu.Unlock()
	if !ending {
		w.report.fail(check, "the stream broke: %v", err)
	}
}

func (w *watcher) bundlesEnough() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.rootSets) >= 2 && len(w.jwtSets) >= 2
}

func (w *watcher) settleBundles() {
	w.mu.Lock()
	defer w.mu.Unlock()
	settle(w.report, "x509.bundles.watch", len(w.rootSets) >= 2, "%d different bundles", len(w.rootSets))
	settle(w.report, "jwt.bundles.watch", len(w.jwtSets) >= 2, "%d different bundles, %d keys", len(w.jwtSets), len(w.jwtKeys))
}

func settle(r *report, check string, passed bool, format string, args ...any) {
	if passed {
		r.ok(check, format, args...)
	} else {
		r.fail(check, format, args...)
	}
}
