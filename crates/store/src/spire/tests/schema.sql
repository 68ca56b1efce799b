CREATE TABLE migrations (id INTEGER PRIMARY KEY, version INTEGER, code_version TEXT);
INSERT INTO migrations VALUES (1, 25, '1.15.3');
CREATE TABLE registered_entries (
    id INTEGER PRIMARY KEY, created_at DATETIME, updated_at DATETIME, entry_id TEXT, spiffe_id TEXT, parent_id TEXT,
    ttl INTEGER, admin BOOL, downstream BOOL, expiry BIGINT, revision_number BIGINT, store_svid BOOL, hint TEXT,
    jwt_svid_ttl INTEGER, additional_attributes BLOB
);
CREATE TABLE selectors (id INTEGER PRIMARY KEY, created_at DATETIME, updated_at DATETIME, registered_entry_id INTEGER, type TEXT, value TEXT);
CREATE TABLE dns_names (id INTEGER PRIMARY KEY, created_at DATETIME, updated_at DATETIME, registered_entry_id INTEGER, value TEXT);
CREATE TABLE federated_registration_entries (bundle_id INTEGER, registered_entry_id INTEGER);
CREATE TABLE attested_node_entries (
    id INTEGER PRIMARY KEY, created_at DATETIME, updated_at DATETIME, spiffe_id TEXT, data_type TEXT, serial_number TEXT,
    expires_at DATETIME, new_serial_number TEXT, new_expires_at DATETIME, can_reattest BOOL, agent_version TEXT
);
CREATE TABLE node_resolver_map_entries (id INTEGER PRIMARY KEY, created_at DATETIME, updated_at DATETIME, spiffe_id TEXT, type TEXT, value TEXT);
CREATE TABLE bundles (id INTEGER PRIMARY KEY, created_at DATETIME, updated_at DATETIME, trust_domain TEXT, data BLOB);
CREATE TABLE join_tokens (id INTEGER PRIMARY KEY, created_at DATETIME, updated_at DATETIME, token TEXT, expiry BIGINT);
CREATE TABLE federated_trust_domains (
    id INTEGER PRIMARY KEY, created_at DATETIME, updated_at DATETIME, trust_domain TEXT, bundle_endpoint_url TEXT, bundle_endpoint_profile TEXT,
    endpoint_spiffe_id TEXT, implicit BOOL
);
CREATE TABLE ca_journals (id INTEGER PRIMARY KEY, created_at DATETIME, updated_at DATETIME, data BLOB, active_x509_authority_id TEXT, active_jwt_authority_id TEXT);
CREATE TABLE registered_entries_events (id INTEGER PRIMARY KEY, created_at DATETIME, updated_at DATETIME, entry_id TEXT);
CREATE TABLE attested_node_entries_events (id INTEGER PRIMARY KEY, created_at DATETIME, updated_at DATETIME, spiffe_id TEXT);
