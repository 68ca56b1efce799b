//! SPIRE's tables, filled anew.

use prost::Message;
use rusqlite::{Connection, Transaction, params};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::entry::Entry;
use vouchsafe_types::federation::{EndpointProfile, FederationRelationship};
use vouchsafe_types::join_token::JoinToken;

use super::SpireJournal;
use super::bundle::{self, EntryAttributes};
use crate::change::Record;

/// Replaces everything in the tables by `records` and `journals`.
pub(super) fn write_all(
    tx: &Transaction<'_>,
    records: &[Record],
    journals: &[SpireJournal],
) -> rusqlite::Result<()> {
    tx.execute_batch(EMPTY)?;
    // Bundles first: entries point to them.
    for record in records {
        if let Record::Bundle(bundle) = record {
            let name = bundle.trust_domain.id_string();
            tx.prepare_cached(BUNDLE)?.execute(params![name, bundle::encode(bundle)])?;
        }
    }
    for record in records {
        match record {
            Record::Bundle(_) => {}
            Record::Entry(entry) => write_entry(tx, entry)?,
            Record::Agent(agent) => write_agent(tx, agent)?,
            Record::JoinToken(token) => write_token(tx, token)?,
            Record::Federation(relationship) => write_relationship(tx, relationship)?,
        }
    }
    for journal in journals {
        tx.prepare_cached(JOURNAL)?.execute(params![journal.data, journal.active_x509_authority_id])?;
    }
    Ok(())
}

fn write_entry(conn: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let attributes = EntryAttributes {
        disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
        jwt_svid_include_jti: entry.jwt_svid_include_jti,
    };
    let attributes = (attributes != EntryAttributes::default()).then(|| attributes.encode_to_vec());
    conn.prepare_cached(ENTRY)?.execute(params![
        entry.created_at,
        entry.id.as_str(),
        entry.spiffe_id.as_str(),
        entry.parent_id.as_str(),
        entry.x509_svid_ttl,
        entry.admin,
        entry.downstream,
        entry.expires_at,
        entry.revision_number,
        entry.store_svid,
        entry.hint,
        entry.jwt_svid_ttl,
        attributes,
    ])?;
    let number = conn.last_insert_rowid();
    for selector in &entry.selectors {
        conn.prepare_cached(SELECTOR)?.execute(params![number, selector.kind(), selector.value()])?;
    }
    for name in &entry.dns_names {
        conn.prepare_cached(DNS_NAME)?.execute(params![number, name])?;
    }
    for trust_domain in &entry.federates_with {
        conn.prepare_cached(FEDERATES)?.execute(params![number, trust_domain.id_string()])?;
    }
    Ok(())
}

fn write_agent(conn: &Connection, agent: &Agent) -> rusqlite::Result<()> {
    let new_expires_at = (agent.new_expires_at != 0).then_some(agent.new_expires_at);
    conn.prepare_cached(AGENT)?.execute(params![
        agent.id.as_str(),
        agent.attestation_type,
        agent.serial_number,
        agent.expires_at,
        agent.new_serial_number,
        new_expires_at,
        agent.can_reattest,
        agent.agent_version,
    ])?;
    for selector in &agent.selectors {
        let row = params![agent.id.as_str(), selector.kind(), selector.value()];
        conn.prepare_cached(NODE_SELECTOR)?.execute(row)?;
    }
    Ok(())
}

fn write_token(conn: &Connection, token: &JoinToken) -> rusqlite::Result<()> {
    conn.prepare_cached(TOKEN)?.execute(params![&*token.value, token.expires_at]).map(drop)
}

fn write_relationship(conn: &Connection, relationship: &FederationRelationship) -> rusqlite::Result<()> {
    let endpoint = match &relationship.bundle_endpoint_profile {
        EndpointProfile::HttpsWeb => "",
        EndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => endpoint_spiffe_id.as_str(),
    };
    conn.prepare_cached(FEDERATION)?
        .execute(params![
            relationship.trust_domain.as_str(),
            relationship.bundle_endpoint_url.to_string(),
            relationship.bundle_endpoint_profile.name(),
            endpoint,
        ])
        .map(drop)
}

// Events go too: a reader that is behind them reads everything.
const EMPTY: &str =
    "DELETE FROM selectors; DELETE FROM dns_names; DELETE FROM federated_registration_entries;
    DELETE FROM registered_entries; DELETE FROM registered_entries_events; DELETE FROM attested_node_entries;
    DELETE FROM attested_node_entries_events; DELETE FROM node_resolver_map_entries; DELETE FROM bundles;
    DELETE FROM join_tokens; DELETE FROM federated_trust_domains; DELETE FROM ca_journals;";
// Texts as SPIRE's driver writes times.
macro_rules! now {
    () => {
        "strftime('%Y-%m-%d %H:%M:%f+00:00', 'now'), strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')"
    };
}
macro_rules! time {
    ($n:literal) => {
        concat!("strftime('%Y-%m-%d %H:%M:%S+00:00', ?", $n, ", 'unixepoch')")
    };
}
const BUNDLE: &str =
    concat!("INSERT INTO bundles (created_at, updated_at, trust_domain, data) VALUES (", now!(), ", ?1, ?2)");
const ENTRY: &str = concat!(
    "INSERT INTO registered_entries (created_at, updated_at, entry_id, spiffe_id, parent_id, ttl, admin, downstream,
     expiry, revision_number, store_svid, hint, jwt_svid_ttl, additional_attributes) VALUES (",
    time!(1),
    ", ",
    time!(1),
    ", ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
);
const SELECTOR: &str = concat!(
    "INSERT INTO selectors (created_at, updated_at, registered_entry_id, type, value) VALUES (",
    now!(),
    ", ?1, ?2, ?3)"
);
const DNS_NAME: &str = concat!(
    "INSERT INTO dns_names (created_at, updated_at, registered_entry_id, value) VALUES (",
    now!(),
    ", ?1, ?2)"
);
const FEDERATES: &str = "INSERT INTO federated_registration_entries (bundle_id, registered_entry_id)
    SELECT id, ?1 FROM bundles WHERE trust_domain = ?2";
const AGENT: &str = concat!(
    "INSERT INTO attested_node_entries (created_at, updated_at, spiffe_id, data_type, serial_number, expires_at,
     new_serial_number, new_expires_at, can_reattest, agent_version) VALUES (",
    now!(),
    ", ?1, ?2, ?3, ",
    time!(4),
    ", ?5, ",
    time!(6),
    ", ?7, ?8)"
);
const NODE_SELECTOR: &str = concat!(
    "INSERT INTO node_resolver_map_entries (created_at, updated_at, spiffe_id, type, value) VALUES (",
    now!(),
    ", ?1, ?2, ?3)"
);
const TOKEN: &str =
    concat!("INSERT INTO join_tokens (created_at, updated_at, token, expiry) VALUES (", now!(), ", ?1, ?2)");
const FEDERATION: &str = concat!(
    "INSERT INTO federated_trust_domains (created_at, updated_at, trust_domain, bundle_endpoint_url,
     bundle_endpoint_profile, endpoint_spiffe_id, implicit) VALUES (",
    now!(),
    ", ?1, ?2, ?3, ?4, 0)"
);
const JOURNAL: &str = concat!(
    "INSERT INTO ca_journals (created_at, updated_at, data, active_x509_authority_id, active_jwt_authority_id)
     VALUES (",
    now!(),
    ", ?1, ?2, '')"
);
