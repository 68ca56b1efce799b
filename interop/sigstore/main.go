// Makes images with signatures and attestations in a real registry, in the formats of cosign and Rekor (by their own
// libraries), asks SPIRE's own verifier about each, and writes everything as one JSON document to standard output:
// crates/sigstore/tests/vectors.json.
//
//	GOFLAGS=-mod=mod go run . > ../../crates/sigstore/tests/vectors.json
package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"strings"
	"time"
	"unsafe"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	ct "github.com/google/certificate-transparency-go"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/hashicorp/go-hclog"
	"github.com/sigstore/cosign/v3/pkg/cosign"
	"github.com/sigstore/cosign/v3/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v3/pkg/oci"
	"github.com/sigstore/cosign/v3/pkg/oci/mutate"
	ociremote "github.com/sigstore/cosign/v3/pkg/oci/remote"
	"github.com/sigstore/cosign/v3/pkg/oci/signed"
	"github.com/sigstore/cosign/v3/pkg/oci/static"
	"github.com/sigstore/rekor/pkg/types"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"github.com/sigstore/sigstore/pkg/tuf"
	"github.com/spiffe/spire/pkg/agent/common/sigstore"
)

// When everything is signed. The certificates are valid for ten minutes, those of "long" signers for decades.
var signing = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

type Case struct {
	Name     string   `json:"name"`
	Image    string   `json:"image"`
	Settings Settings `json:"settings"`
	// What SPIRE says.
	Selectors []string `json:"selectors,omitempty"`
	Error     string   `json:"error,omitempty"`
	// What we say instead: a part of the error's text. Only for cases where SPIRE is too lenient.
	Stricter string `json:"stricter,omitempty"`
}

type Settings struct {
	Allowed            map[string][]string `json:"allowed,omitempty"`
	Skipped            []string            `json:"skipped,omitempty"`
	IgnoreSCT          bool                `json:"ignore_sct,omitempty"`
	IgnoreTlog         bool                `json:"ignore_tlog,omitempty"`
	IgnoreAttestations bool                `json:"ignore_attestations,omitempty"`
}

type Document struct {
	Roots    string            `json:"roots"`
	Rekor    string            `json:"rekor"`
	CT       string            `json:"ct"`
	Registry map[string]string `json:"registry"`
	Cases    []Case            `json:"cases"`
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

type signer struct {
	cert, chain []byte
	der         []byte
	key         crypto.Signer
}

type world struct {
	root, between, foreign *authority
	rekor, otherRekor, ct, otherCT *ecdsa.PrivateKey
	host                           string
	cases                          []Case
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Panic(err)
	}
	return value
}

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}

func newKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

var serial int64 = 1000

func newAuthority(cn string, parent *authority) *authority {
	serial++
	key := newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: cn},
		NotBefore: signing.AddDate(-1, 0, 0), NotAfter: signing.AddDate(30, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	by := &authority{template, key}
	if parent != nil {
		by = parent
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	}
	der := must(x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key))
	return &authority{must(x509.ParseCertificate(der)), key}
}

type wish struct {
	email, uri, dns, other, issuer string
	by                             *authority
	chain                          []*authority
	key                            crypto.Signer
	from, to                       time.Time
	ct                             *ecdsa.PrivateKey
	usage                          x509.ExtKeyUsage
}

func (w *world) signer(wish wish) *signer {
	serial++
	if wish.key == nil {
		wish.key = newKey()
	}
	if wish.by == nil {
		wish.by, wish.chain = w.between, []*authority{w.between, w.root}
	}
	if wish.from.IsZero() {
		wish.from, wish.to = signing.Add(-time.Minute), signing.Add(9*time.Minute)
	}
	if wish.usage == 0 {
		wish.usage = x509.ExtKeyUsageCodeSigning
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: wish.from, NotAfter: wish.to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{wish.usage},
	}
	if wish.email != "" {
		template.EmailAddresses = []string{wish.email}
	}
	if wish.dns != "" {
		template.DNSNames = []string{wish.dns}
	}
	if wish.uri != "" {
		template.URIs = []*url.URL{must(url.Parse(wish.uri))}
	}
	if wish.other != "" {
		template.ExtraExtensions = append(template.ExtraExtensions, *must(cryptoutils.MarshalOtherNameSAN(wish.other, true)))
	}
	if wish.issuer != "" {
		template.ExtraExtensions = append(template.ExtraExtensions,
			pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(wish.issuer)})
	}
	der := must(x509.CreateCertificate(rand.Reader, template, wish.by.cert, wish.key.Public(), wish.by.key))
	if wish.ct != nil {
		list := sctList(must(x509.ParseCertificate(der)), wish.by.cert, wish.ct)
		template.ExtraExtensions = append(template.ExtraExtensions,
			pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: list})
		der = must(x509.CreateCertificate(rand.Reader, template, wish.by.cert, wish.key.Public(), wish.by.key))
	}
	var chain []byte
	for _, authority := range wish.chain {
		chain = append(chain, pemOf("CERTIFICATE", authority.cert.Raw)...)
	}
	return &signer{cert: pemOf("CERTIFICATE", der), chain: chain, der: der, key: wish.key}
}

func sctList(cert, issuer *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	timestamp := uint64(signing.Add(-time.Minute).UnixMilli())
	entry := ct.LogEntry{Leaf: ct.MerkleTreeLeaf{Version: ct.V1, LeafType: ct.TimestampedEntryLeafType, TimestampedEntry: &ct.TimestampedEntry{
		Timestamp: timestamp, EntryType: ct.PrecertLogEntryType,
		PrecertEntry: &ct.PreCert{IssuerKeyHash: sha256.Sum256(issuer.RawSubjectPublicKeyInfo), TBSCertificate: cert.RawTBSCertificate},
	}}}
	id := sha256.Sum256(spki(key))
	sct := ct.SignedCertificateTimestamp{SCTVersion: ct.V1, LogID: ct.LogID{KeyID: id}, Timestamp: timestamp}
	signed := must(ct.SerializeSCTSignatureInput(sct, entry))
	hash := sha256.Sum256(signed)
	signature := must(ecdsa.SignASN1(rand.Reader, key, hash[:]))
	var one bytes.Buffer
	one.WriteByte(0)
	one.Write(id[:])
	check(binary.Write(&one, binary.BigEndian, timestamp))
	one.Write([]byte{0, 0, 4, 3})
	check(binary.Write(&one, binary.BigEndian, uint16(len(signature))))
	one.Write(signature)
	var list bytes.Buffer
	check(binary.Write(&list, binary.BigEndian, uint16(one.Len()+2)))
	check(binary.Write(&list, binary.BigEndian, uint16(one.Len())))
	list.Write(one.Bytes())
	return must(asn1.Marshal(list.Bytes()))
}

func spki(key *ecdsa.PrivateKey) []byte { return must(x509.MarshalPKIXPublicKey(key.Public())) }

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func (s *signer) sign(message []byte) []byte {
	hash := sha256.Sum256(message)
	return must(s.key.Sign(rand.Reader, hash[:], crypto.SHA256))
}

var index int64 = 100

func promise(kind, version string, properties types.ArtifactProperties, key *ecdsa.PrivateKey) *bundle.RekorBundle {
	proposed := must(types.NewProposedEntry(context.Background(), kind, version, properties))
	body := must(types.CanonicalizeEntry(context.Background(), must(types.CreateVersionedEntry(proposed))))
	index++
	id := sha256.Sum256(spki(key))
	entry := bundle.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(body), IntegratedTime: signing.Unix(), LogIndex: index, LogID: hex.EncodeToString(id[:]),
	}
	canonical := must(jsoncanonicalizer.Transform(must(json.Marshal(entry))))
	hash := sha256.Sum256(canonical)
	return &bundle.RekorBundle{SignedEntryTimestamp: must(ecdsa.SignASN1(rand.Reader, key, hash[:])), Payload: entry}
}

// What to put beside an image.
type signatureWish struct {
	by       *signer
	log      *ecdsa.PrivateKey
	logTwin  *signer // whose certificate the entry has
	payload  []byte  // instead of the claim
	logClaim []byte  // the entry is about this
	damaged  bool
	noCert   bool
}

func (w *world) signature(digest v1.Hash, repo string, wish signatureWish) oci.Signature {
	claim := wish.payload
	if claim == nil {
		ref := must(name.NewDigest(fmt.Sprintf("%s/%s@%s", w.host, repo, digest)))
		claim = must(payload.Cosign{Image: ref}.MarshalJSON())
	}
	made := wish.by.sign(claim)
	var options []static.Option
	if !wish.noCert {
		options = append(options, static.WithCertChain(wish.by.cert, wish.by.chain))
	}
	if wish.log != nil {
		logged, with, by := claim, made, wish.by
		if wish.logClaim != nil {
			logged, with = wish.logClaim, wish.by.sign(wish.logClaim)
		}
		if wish.logTwin != nil {
			by = wish.logTwin
			with = by.sign(logged)
		}
		hash := sha256.Sum256(logged)
		options = append(options, static.WithBundle(promise("hashedrekord", "0.0.1", types.ArtifactProperties{
			ArtifactHash: hex.EncodeToString(hash[:]), SignatureBytes: with, PublicKeyBytes: [][]byte{by.cert}, PKIFormat: "x509",
		}, wish.log)))
	}
	if wish.damaged {
		made = wish.by.sign([]byte("something else"))
	}
	return must(static.NewSignature(claim, base64.StdEncoding.EncodeToString(made), options...))
}

func envelope(by *signer, digest string) []byte {
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://example.org/p","subject":[{"name":"x","digest":{"sha256":%q}}],"predicate":{"a":1}}`, digest)
	kind := "application/vnd.in-toto+json"
	signed := fmt.Sprintf("DSSEv1 %d %s %d %s", len(kind), kind, len(statement), statement)
	return must(json.Marshal(map[string]any{
		"payloadType": kind, "payload": base64.StdEncoding.EncodeToString([]byte(statement)),
		"signatures": []map[string]string{{"keyid": "", "sig": base64.StdEncoding.EncodeToString(by.sign([]byte(signed)))}},
	}))
}

func (w *world) attestation(digest v1.Hash, by *signer, kind, version string, change func([]byte) []byte) oci.Signature {
	raw := envelope(by, digest.Hex)
	options := []static.Option{static.WithCertChain(by.cert, by.chain)}
	if kind != "" {
		options = append(options, static.WithBundle(promise(kind, version, types.ArtifactProperties{ArtifactBytes: raw, PublicKeyBytes: [][]byte{by.cert}}, w.rekor)))
	}
	if change != nil {
		raw = change(raw)
	}
	return must(static.NewAttestation(raw, options...))
}

// An image with what make puts beside it.
func (w *world) image(repo string, make func(v1.Hash) (signatures, attestations []oci.Signature)) string {
	image := must(random.Image(64, 1))
	digest := must(image.Digest())
	entity := oci.SignedEntity(signed.Image(image))
	signatures, attestations := make(digest)
	for _, one := range signatures {
		entity = must(mutate.AttachSignatureToEntity(entity, one))
	}
	for _, one := range attestations {
		entity = must(mutate.AttachAttestationToEntity(entity, one))
	}
	repository := must(name.NewRepository(w.host + "/" + repo))
	if len(signatures) > 0 {
		check(ociremote.WriteSignatures(repository, entity))
	}
	if len(attestations) > 0 {
		check(ociremote.WriteAttestations(repository, entity))
	}
	return fmt.Sprintf("%s/%s@%s", w.host, repo, digest)
}

// Puts a value into a field of SPIRE's verifier that only its own tests reach: where the roots come from.
func set[F any](verifier *sigstore.ImageVerifier, field string, value F) {
	place := reflect.ValueOf(verifier).Elem().FieldByName("sigstoreFunctions").FieldByName(field)
	*(*F)(unsafe.Pointer(place.UnsafeAddr())) = value
}

func (w *world) ask(name, image string, settings Settings, stricter string) {
	config := sigstore.NewConfig()
	config.Logger = hclog.NewNullLogger()
	config.RekorURL = "http://127.0.0.1:9"
	config.IgnoreSCT, config.IgnoreTlog, config.IgnoreAttestations = settings.IgnoreSCT, settings.IgnoreTlog, settings.IgnoreAttestations
	if settings.Allowed != nil {
		config.AllowedIdentities = settings.Allowed
	}
	for _, skipped := range settings.Skipped {
		config.SkippedImages[skipped] = struct{}{}
	}
	verifier := sigstore.NewVerifier(config)
	pool := func(certs ...*x509.Certificate) func() (*x509.CertPool, error) {
		return func() (*x509.CertPool, error) {
			pool := x509.NewCertPool()
			for _, cert := range certs {
				pool.AddCert(cert)
			}
			return pool, nil
		}
	}
	keys := func(key *ecdsa.PrivateKey) func(context.Context) (*cosign.TrustedTransparencyLogPubKeys, error) {
		return func(context.Context) (*cosign.TrustedTransparencyLogPubKeys, error) {
			keys := cosign.NewTrustedTransparencyLogPubKeys()
			return &keys, keys.AddTransparencyLogPubKey(pemOf("PUBLIC KEY", spki(key)), tuf.Active)
		}
	}
	set(verifier, "getFulcioRoots", pool(w.root.cert))
	set(verifier, "getFulcioIntermediates", pool(w.between.cert))
	set(verifier, "getRekorPublicKeys", keys(w.rekor))
	set(verifier, "getCTLogPublicKeys", keys(w.ct))
	check(verifier.Init(context.Background()))
	one := Case{Name: name, Image: image, Settings: settings, Stricter: stricter}
	selectors, err := verifier.Verify(context.Background(), image)
	one.Selectors = selectors
	if err != nil {
		one.Error = strings.Join(strings.Fields(err.Error()), " ")
	}
	w.cases = append(w.cases, one)
	fmt.Fprintf(os.Stderr, "%-40s %d selectors %.150s\n", name, len(selectors), one.Error)
}

func main() {
	listener := must(net.Listen("tcp", "127.0.0.1:5177"))
	store := registry.New(registry.Logger(log.New(new(bytes.Buffer), "", 0)))
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: store, ReadHeaderTimeout: time.Minute}}
	server.Start()
	defer server.Close()

	w := &world{rekor: newKey(), otherRekor: newKey(), ct: newKey(), otherCT: newKey(), host: listener.Addr().String()}
	w.root = newAuthority("root", nil)
	w.between = newAuthority("between", w.root)
	w.foreign = newAuthority("foreign", nil)
	w.all()

	out := Document{
		Roots: string(pemOf("CERTIFICATE", w.root.cert.Raw)) + string(pemOf("CERTIFICATE", w.between.cert.Raw)),
		Rekor: string(pemOf("PUBLIC KEY", spki(w.rekor))), CT: string(pemOf("PUBLIC KEY", spki(w.ct))),
		Registry: map[string]string{}, Cases: w.cases,
	}
	w.dump(out.Registry)
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", " ")
	check(encoder.Encode(out))
}

// Reads back from the registry whatever a verifier may ask for.
func (w *world) dump(into map[string]string) {
	get := func(path string) (string, bool) {
		request := must(http.NewRequest(http.MethodGet, "http://"+w.host+path, nil))
		answer := must(http.DefaultClient.Do(request))
		defer answer.Body.Close()
		var body bytes.Buffer
		must(body.ReadFrom(answer.Body))
		return body.String(), answer.StatusCode == http.StatusOK
	}
	layer := regexp.MustCompile(`"layers":.*`)
	digest := regexp.MustCompile(`"digest":"(sha256:[0-9a-f]{64})"`)
	for _, one := range w.cases {
		repo, hash, _ := strings.Cut(strings.TrimPrefix(one.Image, w.host+"/"), "@")
		for _, suffix := range []string{"sig", "att"} {
			path := fmt.Sprintf("/v2/%s/manifests/%s.%s", repo, strings.Replace(hash, ":", "-", 1), suffix)
			manifest, found := get(path)
			if !found {
				continue
			}
			into[path] = manifest
			for _, match := range digest.FindAllStringSubmatch(layer.FindString(manifest), -1) {
				path := fmt.Sprintf("/v2/%s/blobs/%s", repo, match[1])
				if blob, found := get(path); found {
					into[path] = blob
				}
			}
		}
	}
}

func rsaKey() crypto.Signer { return must(rsa.GenerateKey(rand.Reader, 2048)) }
