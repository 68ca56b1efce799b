-- Lists (selectors, federates_with, dns_names) are JSON arrays of strings; selectors are sorted, so that equal
-- sets are equal texts. Times are Unix seconds, 0 means none. See sqlite.rs for the reasons.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta VALUES ('epoch', abs(random() % 9007199254740991) + 1), ('pruned_through', 0);

CREATE TABLE entries (
    seq                        INTEGER PRIMARY KEY,
    id                         TEXT NOT NULL UNIQUE,
    spiffe_id                  TEXT NOT NULL,
    parent_id                  TEXT NOT NULL,
    selectors                  TEXT NOT NULL,
    x509_svid_ttl              INTEGER NOT NULL,
    jwt_svid_ttl               INTEGER NOT NULL,
    federates_with             TEXT NOT NULL,
    admin                      INTEGER NOT NULL,
    downstream                 INTEGER NOT NULL,
    store_svid                 INTEGER NOT NULL,
    expires_at                 INTEGER NOT NULL,
    dns_names                  TEXT NOT NULL,
    hint                       TEXT NOT NULL,
    disable_x509_svid_prefetch INTEGER NOT NULL,
    jwt_svid_include_jti       INTEGER NOT NULL,
    revision_number            INTEGER NOT NULL,
    created_at                 INTEGER NOT NULL
) STRICT;

CREATE INDEX entries_by_spiffe_id ON entries (spiffe_id);
CREATE INDEX entries_by_parent_id ON entries (parent_id);
CREATE INDEX entries_by_expiry ON entries (expires_at) WHERE expires_at <> 0;

CREATE TABLE agents (
    seq               INTEGER PRIMARY KEY,
    id                TEXT NOT NULL UNIQUE,
    attestation_type  TEXT NOT NULL,
    serial_number     TEXT NOT NULL,
    expires_at        INTEGER NOT NULL,
    new_serial_number TEXT NOT NULL,
    new_expires_at    INTEGER NOT NULL,
    can_reattest      INTEGER NOT NULL,
    selectors         TEXT NOT NULL,
    agent_version     TEXT NOT NULL
) STRICT;

CREATE TABLE bundles (
    trust_domain    TEXT PRIMARY KEY,
    refresh_hint    INTEGER NOT NULL,
    sequence_number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE x509_authorities (
    trust_domain TEXT NOT NULL REFERENCES bundles ON DELETE CASCADE,
    place        INTEGER NOT NULL,
    der          BLOB NOT NULL,
    tainted      INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, place)
) STRICT, WITHOUT ROWID;

CREATE TABLE jwt_authorities (
    trust_domain TEXT NOT NULL REFERENCES bundles ON DELETE CASCADE,
    place        INTEGER NOT NULL,
    key_id       TEXT NOT NULL,
    public_key   BLOB NOT NULL,
    expires_at   INTEGER NOT NULL,
    tainted      INTEGER NOT NULL,
    PRIMARY KEY (trust_domain, place)
) STRICT, WITHOUT ROWID;

CREATE TABLE join_tokens (
    seq        INTEGER PRIMARY KEY,
    value      TEXT NOT NULL UNIQUE,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE journals (
    key  TEXT PRIMARY KEY,
    data BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- kind: 1 entry, 2 agent, 3 bundle, 4 join token. AUTOINCREMENT: a position is never given twice, even after
-- the newest rows are pruned.
CREATE TABLE changes (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    kind     INTEGER NOT NULL,
    key      TEXT NOT NULL
) STRICT;
