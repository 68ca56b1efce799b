// Judges the X509-SVID stream: each update must verify, and replace the one before it in time.

import { createPrivateKey, X509Certificate } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mustEnv } from './report.js';

export class X509Watch {
  #report;
  #last;
  #written = 0;
  #serials = new Set();
  #issuers = new Set();
  #seenRoots = new Set();
  #chains = join(mustEnv('INTEROP_OUT'), 'chains');
  #rotations = Number(mustEnv('INTEROP_ROTATIONS'));

  constructor(report) {
    this.#report = report;
    mkdirSync(this.#chains, { recursive: true });
  }

  take(message) {
    const now = new Date();
    const svids = message.svids.map(parse);
    for (const svid of svids) {
      svid.issuer = issuerOf(svid);
      this.#write(now, svid);
    }
    const [svid] = svids;
    if (svid.id !== mustEnv('INTEROP_ID')) throw new Error(`the default SVID became ${svid.id}`);
    if (now > svid.leaf.validToDate) throw new Error('received an SVID after its end');
    if (this.#last && now > this.#last.leaf.validToDate) {
      throw new Error(`the next SVID came ${now - this.#last.leaf.validToDate} ms after the end of the last`);
    }
    const issuer = svid.issuer.fingerprint256;
    if (this.#issuers.size > 0 && !this.#issuers.has(issuer) && !this.#seenRoots.has(issuer)) {
      this.#report.fail('x509.ca-rotation', `authority ${issuer} signed an SVID before any bundle held it`);
    }
    this.#issuers.add(issuer);
    this.#serials.add(svid.leaf.serialNumber);
    for (const root of svid.roots) this.#seenRoots.add(root.fingerprint256);
    this.#last = svid;
  }

  enough() {
    return this.#serials.size > this.#rotations && this.#issuers.size >= 2;
  }

  settle() {
    const seen = Math.max(this.#serials.size - 1, 0);
    this.#report.settle('x509.watch', seen >= this.#rotations, `${seen} rotations`);
    this.#report.settle('x509.ca-rotation', this.#issuers.size >= 2, `SVIDs of ${this.#issuers.size} authorities`);
  }

  /** Leaves the chain and its bundle as PEM, named by the second it arrived, for `openssl verify`. */
  #write(now, svid) {
    this.#written += 1;
    const stem = join(this.#chains, `${Math.floor(now / 1000)}-${String(this.#written).padStart(3, '0')}`);
    const parts = { leaf: [svid.leaf], intermediates: svid.intermediates, bundle: svid.roots };
    for (const [part, certificates] of Object.entries(parts)) {
      writeFileSync(`${stem}.${part}.pem`, certificates.map(String).join(''));
    }
  }
}

function parse(svid) {
  const [leaf, ...intermediates] = certificates(svid.x509Svid);
  const names = leaf.subjectAltName.split(', ');
  if (!names.includes(`URI:${svid.spiffeId}`)) throw new Error(`${svid.spiffeId} came with ${names}`);
  const key = createPrivateKey({ key: Buffer.from(svid.x509SvidKey), format: 'der', type: 'pkcs8' });
  if (!leaf.checkPrivateKey(key)) throw new Error(`the key of ${svid.spiffeId} is not the one in its certificate`);
  return { id: svid.spiffeId, hint: svid.hint, names, leaf, intermediates, roots: certificates(svid.bundle) };
}

/** Follows the signatures from the leaf to the root of the bundle that ends the chain. */
function issuerOf({ id, leaf, intermediates, roots }) {
  let issued = leaf;
  for (const issuer of intermediates) {
    if (!signed(issued, issuer)) throw new Error(`the chain of ${id} is broken`);
    issued = issuer;
  }
  const root = roots.find((candidate) => signed(issued, candidate));
  if (!root) throw new Error(`${id} does not chain to its bundle`);
  return root;
}

function signed(issued, issuer) {
  return issuer.ca && issued.checkIssued(issuer) && issued.verify(issuer.publicKey);
}

/** Splits concatenated DER. A certificate is a SEQUENCE (0x30) with a length in the long form. */
export function certificates(der) {
  const found = [];
  for (let rest = Buffer.from(der); rest.length > 0; ) {
    if (rest[0] !== 0x30 || (rest[1] & 0x80) === 0) throw new Error('not a certificate');
    const lengthBytes = rest[1] & 0x7f;
    const end = 2 + lengthBytes + rest.readUIntBE(2, lengthBytes);
    found.push(withDates(new X509Certificate(rest.subarray(0, end))));
    rest = rest.subarray(end);
  }
  return found;
}

function withDates(certificate) {
  // Node 20 has the text only.
  certificate.validToDate ??= new Date(certificate.validTo);
  return certificate;
}

/** One message of the stream: both entries of this caller, the older one first. */
export async function fetch(report, api) {
  try {
    for await (const message of api.fetchX509SVID({})) {
      const svids = message.svids.map(parse);
      if (svids[0].id !== mustEnv('INTEROP_ID')) throw new Error(`the default SVID is ${svids[0].id}`);
      const second = svids.find(({ id }) => id === mustEnv('INTEROP_SECOND_ID'));
      if (!second) throw new Error(`got ${svids.map(({ id }) => id)}`);
      if (second.hint !== mustEnv('INTEROP_SECOND_HINT')) throw new Error(`hint ${second.hint}`);
      if (!second.names.includes(`DNS:${mustEnv('INTEROP_SECOND_DNS')}`)) throw new Error(`names ${second.names}`);
      report.ok('x509.fetch', svids.map(({ id }) => id).join(' and '));
      return;
    }
    throw new Error('the stream ended without a message');
  } catch (err) {
    report.fail('x509.fetch', err);
  }
}
