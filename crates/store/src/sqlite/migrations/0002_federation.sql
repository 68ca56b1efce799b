-- Where bundles of foreign trust domains are fetched from. profile: 'https_web' or 'https_spiffe'; endpoint_spiffe_id is
-- empty for the first.

CREATE TABLE federation (
    trust_domain        TEXT PRIMARY KEY,
    bundle_endpoint_url TEXT NOT NULL,
    profile             TEXT NOT NULL,
    endpoint_spiffe_id  TEXT NOT NULL
) STRICT, WITHOUT ROWID;
