package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/cosign/v3/pkg/oci"
)

const (
	google = "https://accounts.google.com"
	github = "https://token.actions.githubusercontent.com"
	robot  = "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main"
)

func (w *world) all() {
	alice := w.signer(wish{email: "alice@example.com", issuer: google, ct: w.ct})
	builder := w.signer(wish{uri: robot, issuer: github, ct: w.ct})
	noAttestations := Settings{IgnoreAttestations: true}

	// An image with these signatures, and what SPIRE says.
	simple := func(name string, settings Settings, stricter string, wishes ...signatureWish) {
		image := w.image(name, func(digest v1.Hash) (signatures, attestations []oci.Signature) {
			for _, wish := range wishes {
				signatures = append(signatures, w.signature(digest, name, wish))
			}
			return signatures, nil
		})
		w.ask(name, image, settings, stricter)
	}
	signedBy := func(name string, settings Settings, wish wish) {
		simple(name, settings, "", signatureWish{by: w.signer(wish), log: w.rekor})
	}

	simple("signed", noAttestations, "", signatureWish{by: alice, log: w.rekor})
	simple("signed-twice", noAttestations, "", signatureWish{by: alice, log: w.rekor}, signatureWish{by: builder, log: w.rekor})
	simple("one-of-two-allowed", Settings{IgnoreAttestations: true, Allowed: map[string][]string{github: {"^https://github.com/acme/.*@refs/heads/main$"}}}, "",
		signatureWish{by: alice, log: w.rekor}, signatureWish{by: builder, log: w.rekor})
	simple("allowed-exactly", Settings{IgnoreAttestations: true, Allowed: map[string][]string{google: {"alice@example.com"}}}, "", signatureWish{by: alice, log: w.rekor})
	simple("issuer-not-allowed", Settings{IgnoreAttestations: true, Allowed: map[string][]string{github: {"alice@example.com"}}}, "", signatureWish{by: alice, log: w.rekor})
	simple("subject-not-allowed", Settings{IgnoreAttestations: true, Allowed: map[string][]string{google: {"bob@example.com"}}}, "", signatureWish{by: alice, log: w.rekor})
	simple("unsigned", noAttestations, "")
	simple("key-only", noAttestations, "", signatureWish{by: alice, noCert: true})
	simple("no-log", noAttestations, "", signatureWish{by: alice})
	simple("other-log", noAttestations, "", signatureWish{by: alice, log: w.otherRekor})
	simple("entry-of-other-payload", noAttestations, "", signatureWish{by: alice, log: w.rekor, logClaim: []byte(`{"critical":{}}`)})
	simple("entry-of-other-signer", noAttestations, "", signatureWish{by: alice, log: w.rekor, logTwin: builder})
	simple("damaged", noAttestations, "", signatureWish{by: alice, log: w.rekor, damaged: true})
	simple("damaged-without-log", Settings{IgnoreAttestations: true, IgnoreTlog: true, IgnoreSCT: true}, "",
		signatureWish{by: w.signer(wish{email: "alice@example.com", issuer: google, from: signing, to: signing.AddDate(20, 0, 0)}), damaged: true})
	simple("payload-of-other-image", noAttestations, "about another image",
		signatureWish{by: alice, log: w.rekor, payload: []byte(`{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},"type":"cosign container image signature"},"optional":null}`)})
	simple("payload-is-no-claim", noAttestations, "cannot be read", signatureWish{by: alice, log: w.rekor, payload: []byte("hello")})
	simple("one-good-among-bad", noAttestations, "", signatureWish{by: alice, log: w.rekor, damaged: true}, signatureWish{by: builder, log: w.rekor}, signatureWish{by: alice})

	long := wish{email: "alice@example.com", issuer: google, from: signing, to: signing.AddDate(20, 0, 0)}
	offline := Settings{IgnoreAttestations: true, IgnoreTlog: true, IgnoreSCT: true}
	simple("without-log", offline, "", signatureWish{by: w.signer(long)})
	simple("without-log-expired", offline, "", signatureWish{by: alice})

	signedBy("uri", noAttestations, wish{uri: robot, issuer: github, ct: w.ct})
	signedBy("dns-and-mail", noAttestations, wish{email: "alice@example.com", dns: "build.example.com", issuer: google, ct: w.ct})
	signedBy("other-name", noAttestations, wish{other: "alice!example", issuer: google, ct: w.ct})
	signedBy("no-subject", noAttestations, wish{issuer: google, ct: w.ct})
	signedBy("no-issuer", noAttestations, wish{email: "alice@example.com", ct: w.ct})
	signedBy("expired-when-signed", noAttestations, wish{email: "alice@example.com", issuer: google, ct: w.ct, from: signing.Add(-time.Hour), to: signing.Add(-time.Second)})
	signedBy("not-yet-valid-when-signed", noAttestations, wish{email: "alice@example.com", issuer: google, ct: w.ct, from: signing.Add(time.Second), to: signing.Add(time.Hour)})
	signedBy("foreign-authority", noAttestations, wish{email: "alice@example.com", issuer: google, ct: w.ct, by: w.foreign, chain: []*authority{w.foreign}})
	signedBy("directly-by-root", noAttestations, wish{email: "alice@example.com", issuer: google, ct: w.ct, by: w.root, chain: []*authority{w.root}})
	signedBy("not-for-code-signing", noAttestations, wish{email: "alice@example.com", issuer: google, ct: w.ct, usage: x509.ExtKeyUsageServerAuth})
	signedBy("no-sct", noAttestations, wish{email: "alice@example.com", issuer: google})
	signedBy("no-sct-ignored", Settings{IgnoreAttestations: true, IgnoreSCT: true}, wish{email: "alice@example.com", issuer: google})
	signedBy("sct-of-other-log", noAttestations, wish{email: "alice@example.com", issuer: google, ct: w.otherCT})
	signedBy("rsa", noAttestations, wish{email: "alice@example.com", issuer: google, ct: w.ct, key: rsaKey()})
	signedBy("p384", noAttestations, wish{email: "alice@example.com", issuer: google, ct: w.ct, key: must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))})

	attested := func(name, stricter string, make func(v1.Hash) []oci.Signature) {
		image := w.image(name, func(digest v1.Hash) (signatures, attestations []oci.Signature) {
			return []oci.Signature{w.signature(digest, name, signatureWish{by: alice, log: w.rekor})}, make(digest)
		})
		w.ask(name, image, Settings{}, stricter)
	}
	for _, entry := range [][3]string{{"attested-dsse", "dsse", "0.0.1"}, {"attested-intoto1", "intoto", "0.0.1"}, {"attested-intoto2", "intoto", "0.0.2"}} {
		attested(entry[0], "", func(digest v1.Hash) []oci.Signature {
			return []oci.Signature{w.attestation(digest, builder, entry[1], entry[2], nil)}
		})
	}
	attested("attestations-missing", "", func(v1.Hash) []oci.Signature { return nil })
	attested("attestation-not-logged", "", func(digest v1.Hash) []oci.Signature {
		return []oci.Signature{w.attestation(digest, builder, "", "", nil)}
	})
	attested("attestation-damaged", "", func(digest v1.Hash) []oci.Signature {
		return []oci.Signature{w.attestation(digest, builder, "dsse", "0.0.1", func(raw []byte) []byte {
			return bytes.Replace(raw, []byte(`"payloadType"`), []byte(` "payloadType"`), 1)
		})}
	})
	attested("attestation-of-other-image", "about other subjects", func(v1.Hash) []oci.Signature {
		other := v1.Hash{Algorithm: "sha256", Hex: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
		return []oci.Signature{w.attestation(other, builder, "dsse", "0.0.1", nil)}
	})

	skipped := w.image("skipped", func(v1.Hash) (signatures, attestations []oci.Signature) { return nil, nil })
	w.ask("skipped", skipped, Settings{Skipped: []string{skipped}}, "")
}
