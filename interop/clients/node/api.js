// The Workload API over @grpc/grpc-js, in the shape of npm's `ts-spiffe`: async iterables for streams, promises for the rest.

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';
import { mustEnv } from './report.js';

const definition = protoLoader.loadSync(fileURLToPath(new URL('./workload.proto', import.meta.url)));
const { SpiffeWorkloadAPI } = grpc.loadPackageDefinition(definition);

export const { status } = grpc;

/** A stub that sends exactly the metadata it is given. */
export function stub() {
  return new SpiffeWorkloadAPI(mustEnv('SPIFFE_ENDPOINT_SOCKET'), grpc.credentials.createInsecure());
}

export function deadline() {
  return { deadline: Date.now() + 60_000 };
}

/** Our own thin client or, when INTEROP_TS_SPIFFE names a copy of the module `ts-spiffe`, the one in there. */
export function connect() {
  const module = process.env.INTEROP_TS_SPIFFE;
  if (module) {
    const { WorkloadSpireClient } = createRequire(import.meta.url)(module);
    return new WorkloadSpireClient({ spireEndpoint: mustEnv('SPIFFE_ENDPOINT_SOCKET'), reconnectInterval: 0 });
  }
  return new Client(stub());
}

class Client {
  #stub;

  constructor(inner) {
    this.#stub = inner;
  }

  fetchX509SVID(request) {
    return this.#stub.FetchX509SVID(request, header());
  }

  fetchX509Bundles(request) {
    return this.#stub.FetchX509Bundles(request, header());
  }

  fetchJWTBundles(request) {
    return this.#stub.FetchJWTBundles(request, header());
  }

  fetchJWTSVID(request) {
    return unary(this.#stub, 'FetchJWTSVID', request, header());
  }

  validateJWTSVID(request) {
    return unary(this.#stub, 'ValidateJWTSVID', request, header());
  }
}

/** One unary call with a deadline, as a promise. */
export function unary(api, method, request, metadata) {
  return new Promise((resolve, reject) => {
    api[method](request, metadata, deadline(), (err, answer) => (err ? reject(err) : resolve(answer)));
  });
}

function header() {
  const metadata = new grpc.Metadata();
  metadata.set('workload.spiffe.io', 'true');
  return metadata;
}
