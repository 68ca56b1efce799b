// One line per check, and what the suite told this client to expect.

/** Prints each check once. The first verdict on a name stands, so a late `ok` cannot cover an earlier `FAIL`. */
export class Report {
  #verdicts = new Map();

  ok(name, detail) {
    this.settle(name, true, detail);
  }

  fail(name, detail) {
    this.settle(name, false, detail);
  }

  settle(name, passed, detail) {
    if (this.#verdicts.has(name)) return;
    this.#verdicts.set(name, passed);
    console.log(passed ? 'ok' : 'FAIL', name, String(detail).replace(/\s+/g, ' '));
  }

  exitCode() {
    return this.#verdicts.size > 0 && [...this.#verdicts.values()].every(Boolean) ? 0 : 1;
  }
}

/** Ends the program when the suite did not set a variable: a default would hide a mistake in the suite. */
export function mustEnv(name) {
  const value = process.env[name];
  if (!value) {
    console.error(`${name} is not set`);
    process.exit(2);
  }
  return value;
}
