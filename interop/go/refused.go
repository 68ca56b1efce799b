package main

import (
	"context"
	"strings"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// deniedMode runs as a caller that no entry describes.
func deniedMode(r *report) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	client, err := workloadapi.New(ctx)
	if err != nil {
		r.fail("denied", "client: %v", err)
		return
	}
	defer client.Close()
	_, x509Err := client.FetchX509SVID(ctx)
	_, jwtErr := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	for call, err := range map[string]error{"FetchX509SVID": x509Err, "FetchJWTSVID": jwtErr} {
		if !refusedWith(err, codes.PermissionDenied, "no identity issued") {
			r.fail("denied", "%s: %v", call, err)
		}
	}
	r.ok("denied", "%v", x509Err)
}

// noHeaderMode calls every method with go-spiffe's stub but without the `workload.spiffe.io` metadata.
func noHeaderMode(r *report) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	conn, err := grpc.NewClient(mustEnv("SPIFFE_ENDPOINT_SOCKET"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.fail("no-header", "%v", err)
		return
	}
	defer conn.Close()
	for call, err := range callAll(ctx, workload.NewSpiffeWorkloadAPIClient(conn)) {
		if !refusedWith(err, codes.InvalidArgument, "security header missing from request") {
			r.fail("no-header", "%s: %v", call, err)
		}
	}
	r.ok("no-header", "InvalidArgument from all five methods")
}

func callAll(ctx context.Context, api workload.SpiffeWorkloadAPIClient) map[string]error {
	errs := map[string]error{}
	_, errs["FetchJWTSVID"] = api.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{audience}})
	_, errs["ValidateJWTSVID"] = api.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: audience, Svid: "x"})
	if stream, err := api.FetchX509SVID(ctx, &workload.X509SVIDRequest{}); err != nil {
		errs["FetchX509SVID"] = err
	} else {
		_, errs["FetchX509SVID"] = stream.Recv()
	}
	if stream, err := api.FetchX509Bundles(ctx, &workload.X509BundlesRequest{}); err != nil {
		errs["FetchX509Bundles"] = err
	} else {
		_, errs["FetchX509Bundles"] = stream.Recv()
	}
	if stream, err := api.FetchJWTBundles(ctx, &workload.JWTBundlesRequest{}); err != nil {
		errs["FetchJWTBundles"] = err
	} else {
		_, errs["FetchJWTBundles"] = stream.Recv()
	}
	return errs
}

func refusedWith(err error, code codes.Code, text string) bool {
	return status.Code(err) == code && strings.Contains(status.Convert(err).Message(), text)
}
