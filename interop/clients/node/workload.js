// Drives a SPIFFE Workload API from Node over @grpc/grpc-js, the third HTTP/2 stack of this suite.
//
// Modes: watch, denied, no-header. Each prints one line per check, `ok <name> <detail>` or `FAIL <name> <detail>`, and
// exits non-zero if one failed. The environment names the socket and what to expect; see interop/README.md.

import { setTimeout as sleep } from 'node:timers/promises';
import { connect, deadline, status, stub, unary } from './api.js';
import { AUDIENCE, JwtProbe } from './jwt.js';
import { mustEnv, Report } from './report.js';
import { certificates, fetch, X509Watch } from './x509.js';
import grpc from '@grpc/grpc-js';

async function watch(report) {
  const ends = Date.now() + Number(mustEnv('INTEROP_DEADLINE_SECS')) * 1000;
  const api = connect();
  await fetch(report, api);
  const svids = new X509Watch(report);
  const jwts = new JwtProbe(report, api);
  const td = new URL(mustEnv('INTEROP_ID')).host;
  const rootSets = new Set();
  const keySets = new Set();
  let jwks;
  let ending = false;

  /** Reads one stream to its end, which must not come before this client is done. */
  const follow = async (check, messages, take) => {
    try {
      for await (const message of messages) take(message);
      throw new Error('the stream ended');
    } catch (err) {
      if (!ending) report.fail(check, err);
    }
  };
  follow('x509.watch', api.fetchX509SVID({}), (message) => svids.take(message));
  follow('x509.bundles.watch', api.fetchX509Bundles({}), ({ bundles }) => {
    const roots = certificates(bundles[`spiffe://${td}`]);
    rootSets.add(roots.map((root) => root.fingerprint256).sort().join());
  });
  follow('jwt.bundles.watch', api.fetchJWTBundles({}), ({ bundles }) => {
    jwks = JSON.parse(Buffer.from(bundles[`spiffe://${td}`]).toString());
    keySets.add(jwks.keys.map((key) => key.kid).sort().join());
  });

  const bundlesEnough = () => rootSets.size >= 2 && keySets.size >= 2;
  while (Date.now() < ends && !(svids.enough() && bundlesEnough() && jwts.enough())) {
    await jwts.tick(jwks);
    await sleep(1000);
  }
  ending = true;
  await jwts.settle();
  svids.settle();
  report.settle('x509.bundles.watch', rootSets.size >= 2, `${rootSets.size} different bundles`);
  report.settle('jwt.bundles.watch', keySets.size >= 2, `${keySets.size} different bundles`);
}

/** As a caller that no entry describes. */
async function denied(report) {
  const api = connect();
  const calls = {
    FetchX509SVID: async () => {
      for await (const _ of api.fetchX509SVID({})) return;
    },
    FetchJWTSVID: () => api.fetchJWTSVID({ audience: [AUDIENCE], spiffeId: '' }),
  };
  for (const [name, call] of Object.entries(calls)) {
    try {
      await call();
      report.fail('denied', `${name} gave an identity`);
    } catch (err) {
      if (!/7 PERMISSION_DENIED: no identity issued/.test(err.message)) report.fail('denied', `${name}: ${err}`);
    }
  }
  report.ok('denied', 'PermissionDenied: no identity issued');
}

/** Every method, without the `workload.spiffe.io` metadata. */
async function noHeader(report) {
  const api = stub();
  const none = new grpc.Metadata();
  const first = async (stream) => {
    for await (const _ of stream) return;
  };
  const calls = {
    FetchX509SVID: () => first(api.FetchX509SVID({}, none, deadline())),
    FetchX509Bundles: () => first(api.FetchX509Bundles({}, none, deadline())),
    FetchJWTBundles: () => first(api.FetchJWTBundles({}, none, deadline())),
    FetchJWTSVID: () => unary(api, 'FetchJWTSVID', { audience: [AUDIENCE] }, none),
    ValidateJWTSVID: () => unary(api, 'ValidateJWTSVID', { audience: AUDIENCE, svid: 'x' }, none),
  };
  for (const [name, call] of Object.entries(calls)) {
    try {
      await call();
      report.fail('no-header', `${name} answered`);
    } catch (err) {
      const refused = err.code === status.INVALID_ARGUMENT && err.details.includes('security header missing from request');
      if (!refused) report.fail('no-header', `${name}: ${err}`);
    }
  }
  report.ok('no-header', 'InvalidArgument from all five methods');
}

const modes = { watch, denied, 'no-header': noHeader };
const mode = modes[process.argv[2]];
if (!mode) {
  console.error(`usage: workload.js ${Object.keys(modes).join('|')}`);
  process.exit(2);
}
const report = new Report();
await mode(report);
process.exit(report.exitCode());
