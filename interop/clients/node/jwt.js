// Asks for a JWT-SVID again and again; each is validated by the Workload API and by the package `jose`.

import { createLocalJWKSet, decodeProtectedHeader, jwtVerify } from 'jose';
import { status } from './api.js';
import { mustEnv } from './report.js';

export const AUDIENCE = 'interop-audience';

export class JwtProbe {
  #report;
  #api;
  #tokens = new Set();
  #keys = new Set();
  #last = '';
  #local = 0;

  constructor(report, api) {
    this.#report = report;
    this.#api = api;
  }

  /** `bundle` is the JWKS that the stream delivered last, if it has. */
  async tick(bundle) {
    const id = mustEnv('INTEROP_ID');
    try {
      const { svids } = await this.#api.fetchJWTSVID({ audience: [AUDIENCE], spiffeId: id });
      if (svids.length !== 1 || svids[0].spiffeId !== id) throw new Error(`got ${svids.map((svid) => svid.spiffeId)}`);
      this.#last = svids[0].svid;
      this.#tokens.add(this.#last);
      this.#keys.add(decodeProtectedHeader(this.#last).kid);
    } catch (err) {
      this.#report.fail('jwt.fetch', err);
      return;
    }
    try {
      const answer = await this.#api.validateJWTSVID({ audience: AUDIENCE, svid: this.#last });
      if (answer.spiffeId !== id) throw new Error(`validated as ${answer.spiffeId}`);
    } catch (err) {
      this.#report.fail('jwt.validate.api', err);
    }
    if (!bundle) return;
    try {
      const { payload } = await jwtVerify(this.#last, createLocalJWKSet(bundle), {
        audience: AUDIENCE,
        subject: id,
        requiredClaims: ['exp', 'aud', 'sub'],
      });
      if (!Array.isArray(payload.aud)) throw new Error('aud is not an array');
    } catch (err) {
      this.#report.fail('jwt.validate.local', err);
    }
    this.#local += 1;
  }

  enough() {
    return this.#tokens.size >= 2 && this.#keys.size >= 2 && this.#local > 0;
  }

  async settle() {
    const rotated = this.#tokens.size >= 2 && this.#keys.size >= 2;
    this.#report.settle('jwt.fetch', rotated, `${this.#tokens.size} tokens of ${this.#keys.size} keys`);
    this.#report.settle('jwt.validate.api', this.#tokens.size > 0, `${this.#tokens.size} tokens`);
    this.#report.settle('jwt.validate.local', this.#local > 0, `${this.#local} times`);
    await this.#reject();
  }

  /** Proves that validation can say no: to another audience and to a changed signature. */
  async #reject() {
    if (!this.#last) return this.#report.fail('jwt.reject', 'no token to change');
    const attempts = {
      'another audience': { audience: 'someone-else', svid: this.#last },
      'a changed signature': { audience: AUDIENCE, svid: tamper(this.#last) },
    };
    for (const [what, attempt] of Object.entries(attempts)) {
      try {
        await this.#api.validateJWTSVID(attempt);
        this.#report.fail('jwt.reject', `${what} was accepted`);
      } catch (err) {
        // ts-spiffe keeps only the text of the status, which starts with its number and name.
        const refused = err.code === status.INVALID_ARGUMENT || /^3 INVALID_ARGUMENT/.test(err.message);
        if (!refused) this.#report.fail('jwt.reject', `${what}: ${err}`);
      }
    }
    this.#report.ok('jwt.reject', 'InvalidArgument');
  }
}

/** Changes the first character of the signature. */
function tamper(token) {
  const at = token.lastIndexOf('.') + 1;
  return token.slice(0, at) + (token[at] === 'A' ? 'B' : 'A') + token.slice(at + 1);
}
