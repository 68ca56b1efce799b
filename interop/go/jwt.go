package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const audience = "interop-audience"

// jwtProbe asks for a JWT-SVID again and again, and has each one validated by the Workload API and by go-spiffe.
type jwtProbe struct {
	report *report
	client *workloadapi.Client
	id     spiffeid.ID
	tokens map[string]bool
	keys   map[string]bool
	last   string
	local  int
}

func newJWTProbe(r *report, client *workloadapi.Client, id spiffeid.ID) *jwtProbe {
	return &jwtProbe{report: r, client: client, id: id, tokens: map[string]bool{}, keys: map[string]bool{}}
}

func (p *jwtProbe) tick(ctx context.Context, bundles *jwtbundle.Set) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	svid, err := p.client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience, Subject: p.id})
	if err != nil {
		p.report.fail("jwt.fetch", "%v", err)
		return
	}
	if svid.ID != p.id {
		p.report.fail("jwt.fetch", "got %s", svid.ID)
	}
	p.last = svid.Marshal()
	p.tokens[p.last] = true
	if kid, err := keyID(p.last); err != nil {
		p.report.fail("jwt.fetch", "%v", err)
	} else {
		p.keys[kid] = true
	}
	if _, err := p.client.ValidateJWTSVID(ctx, p.last, audience); err != nil {
		p.report.fail("jwt.validate.api", "%v", err)
	}
	if bundles == nil {
		return
	}
	if _, err := jwtsvid.ParseAndValidate(p.last, bundles, []string{audience}); err != nil {
		p.report.fail("jwt.validate.local", "%v", err)
	}
	p.local++
}

func (p *jwtProbe) enough() bool {
	return len(p.tokens) >= 2 && len(p.keys) >= 2 && p.local > 0
}

func (p *jwtProbe) settle(ctx context.Context) {
	settle(p.report, "jwt.fetch", len(p.tokens) >= 2 && len(p.keys) >= 2, "%d tokens of %d keys", len(p.tokens), len(p.keys))
	settle(p.report, "jwt.validate.api", len(p.tokens) > 0, "%d tokens", len(p.tokens))
	settle(p.report, "jwt.validate.local", p.local > 0, "%d times", p.local)
	p.reject(ctx)
}

// reject proves that validation can say no: to another audience and to a changed signature.
func (p *jwtProbe) reject(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if p.last == "" {
		p.report.fail("jwt.reject", "no token to change")
		return
	}
	for what, attempt := range map[string][2]string{
		"another audience":    {p.last, "someone-else"},
		"a changed signature": {tamper(p.last), audience},
	} {
		_, err := p.client.ValidateJWTSVID(ctx, attempt[0], attempt[1])
		if status.Code(err) != codes.InvalidArgument {
			p.report.fail("jwt.reject", "%s: %v", what, err)
		}
	}
	p.report.ok("jwt.reject", "InvalidArgument")
}

// tamper changes the first character of the signature.
func tamper(token string) string {
	at := strings.LastIndex(token, ".") + 1
	replacement := "A"
	if token[at] == 'A' {
		replacement = "B"
	}
	return token[:at] + replacement + token[at+1:]
}

func keyID(token string) (string, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.RS256})
	if err != nil {
		return "", err
	}
	if parsed.Headers[0].KeyID == "" {
		return "", fmt.Errorf("a token without kid")
	}
	return parsed.Headers[0].KeyID, nil
}
