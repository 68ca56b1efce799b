//! SPIRE's tables, row by row.

use std::collections::HashMap;

use prost::Message;
use rusqlite::{Connection, Row};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::federation::{EndpointProfile, EndpointUrl, FederationRelationship};
use vouchsafe_types::join_token::JoinToken;
use vouchsafe_types::selector::{Selector, SelectorSet};
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::SpireDatabase;
use super::bundle::{self, EntryAttributes};
use crate::change::Record;
use crate::store::JournalRecord;

/// What is wrong with a row, for the operator.
type Unfit = Box<dyn std::error::Error>;

pub(super) fn read_all(
    connection: &Connection,
    trust_domain: &TrustDomain,
    into: &mut SpireDatabase,
) -> rusqlite::Result<()> {
    let mut owned = Owned::read(connection)?;
    each(connection, ENTRIES, into, "entry", |row| {
        let entry = entry(row, &mut owned)?;
        entry.validate(trust_domain)?;
        Ok(Record::Entry(entry))
    })?;
    let mut selectors = node_selectors(connection)?;
    each(connection, AGENTS, into, "agent", |row| agent(row, &mut selectors).map(Record::Agent))?;
    each(connection, BUNDLES, into, "bundle", |row| {
        Ok(Record::Bundle(bundle::decode(&row.get::<_, Vec<u8>>(1)?)?))
    })?;
    each(connection, TOKENS, into, "join token", |row| {
        Ok(Record::JoinToken(JoinToken {
            value: row.get::<_, String>(1)?.as_str().into(),
            expires_at: row.get(2)?,
        }))
    })?;
    each(connection, FEDERATION, into, "federation relationship", |row| {
        relationship(row).map(Record::Federation)
    })?;
    let mut journals = connection.prepare("SELECT id, data FROM ca_journals ORDER BY id")?;
    let journals = journals.query_map([], |row| {
        Ok(JournalRecord { key: format!("spire-{}", row.get::<_, i64>(0)?), data: row.get(1)? })
    })?;
    into.contents.journals = journals.collect::<rusqlite::Result<_>>()?;
    Ok(())
}

/// Reads every row of `sql`, whose first column names it.
fn each(
    connection: &Connection,
    sql: &str,
    into: &mut SpireDatabase,
    what: &str,
    mut read: impl FnMut(&Row<'_>) -> Result<Record, Unfit>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        match read(row) {
            Ok(record) => into.contents.records.push(record),
            Err(why) => {
                let name: String = row.get(0).unwrap_or_default();
                into.left_out.push(format!("{what} {name}: {why}"));
            }
        }
    }
    Ok(())
}

/// What entries own in other tables, by the number of their row.
struct Owned {
    selectors: HashMap<i64, Vec<(String, String)>>,
    dns_names: HashMap<i64, Vec<String>>,
    federates_with: HashMap<i64, Vec<String>>,
}

impl Owned {
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let selectors = "SELECT registered_entry_id, type, value FROM selectors ORDER BY id";
        let dns_names = "SELECT registered_entry_id, value FROM dns_names ORDER BY id";
        let federates_with =
            "SELECT f.registered_entry_id, b.trust_domain FROM federated_registration_entries f
                              JOIN bundles b ON b.id = f.bundle_id ORDER BY b.trust_domain";
        Ok(Self {
            selectors: grouped(connection, selectors, |row| Ok((row.get(1)?, row.get(2)?)))?,
            dns_names: grouped(connection, dns_names, |row| row.get(1))?,
            federates_with: grouped(connection, federates_with, |row| row.get(1))?,
        })
    }
}

fn node_selectors(connection: &Connection) -> rusqlite::Result<HashMap<String, Vec<(String, String)>>> {
    let sql = "SELECT spiffe_id, type, value FROM node_resolver_map_entries ORDER BY id";
    grouped(connection, sql, |row| Ok((row.get(1)?, row.get(2)?)))
}

fn grouped<K, V>(
    connection: &Connection,
    sql: &str,
    value: impl Fn(&Row<'_>) -> rusqlite::Result<V>,
) -> rusqlite::Result<HashMap<K, Vec<V>>>
where
    K: rusqlite::types::FromSql + Eq + std::hash::Hash,
{
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut groups: HashMap<K, Vec<V>> = HashMap::new();
    while let Some(row) = rows.next()? {
        groups.entry(row.get(0)?).or_default().push(value(row)?);
    }
    Ok(groups)
}

fn entry(row: &Row<'_>, owned: &mut Owned) -> Result<Entry, Unfit> {
    let number: i64 = row.get("id")?;
    let text = |column: &str| row.get::<_, String>(column);
    let id = EntryId::parse(&text("entry_id")?)?;
    let (spiffe_id, parent_id) =
        (SpiffeId::parse(&text("spiffe_id")?)?, SpiffeId::parse(&text("parent_id")?)?);
    let selectors = selector_set(owned.selectors.remove(&number).unwrap_or_default())?;
    let attributes: Option<Vec<u8>> = row.get("additional_attributes")?;
    let attributes = EntryAttributes::decode(attributes.unwrap_or_default().as_slice())?;
    let federates_with = owned.federates_with.remove(&number).unwrap_or_default();
    let federates_with: Result<Vec<_>, _> =
        federates_with.iter().map(|name| TrustDomain::parse(name)).collect();
    Ok(Entry {
        x509_svid_ttl: seconds(row.get("ttl")?)?,
        jwt_svid_ttl: seconds(row.get("jwt_svid_ttl")?)?,
        federates_with: federates_with?,
        admin: flag(row, "admin")?,
        downstream: flag(row, "downstream")?,
        store_svid: flag(row, "store_svid")?,
        expires_at: row.get::<_, Option<i64>>("expiry")?.unwrap_or(0),
        dns_names: owned.dns_names.remove(&number).unwrap_or_default(),
        hint: row.get::<_, Option<String>>("hint")?.unwrap_or_default(),
        disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti: attributes.jwt_svid_include_jti,
        revision_number: row.get::<_, Option<i64>>("revision_number")?.unwrap_or(0),
        created_at: row.get("created")?,
        ..Entry::new(id, spiffe_id, parent_id, selectors)
    })
}

fn agent(row: &Row<'_>, selectors: &mut HashMap<String, Vec<(String, String)>>) -> Result<Agent, Unfit> {
    let id: String = row.get("spiffe_id")?;
    let text = |column: &str| row.get::<_, Option<String>>(column).map(Option::unwrap_or_default);
    let time = |column: &str| row.get::<_, Option<i64>>(column).map(Option::unwrap_or_default);
    Ok(Agent {
        selectors: selector_set(selectors.remove(&id).unwrap_or_default())?,
        id: SpiffeId::parse(&id)?,
        attestation_type: text("data_type")?,
        serial_number: text("serial_number")?,
        expires_at: time("expires")?,
        new_serial_number: text("new_serial_number")?,
        new_expires_at: time("new_expires")?,
        can_reattest: flag(row, "can_reattest")?,
        agent_version: text("agent_version")?,
    })
}

fn relationship(row: &Row<'_>) -> Result<FederationRelationship, Unfit> {
    let text = |column: &str| row.get::<_, Option<String>>(column).map(Option::unwrap_or_default);
    let profile = match text("bundle_endpoint_profile")?.as_str() {
        "https_web" => EndpointProfile::HttpsWeb,
        "https_spiffe" => EndpointProfile::HttpsSpiffe {
            endpoint_spiffe_id: SpiffeId::parse(&text("endpoint_spiffe_id")?)?,
        },
        other => return Err(format!("a bundle endpoint profile {other:?}").into()),
    };
    Ok(FederationRelationship {
        trust_domain: TrustDomain::parse(&text("trust_domain")?)?,
        bundle_endpoint_url: EndpointUrl::parse(&text("bundle_endpoint_url")?)?,
        bundle_endpoint_profile: profile,
    })
}

fn selector_set(pairs: Vec<(String, String)>) -> Result<SelectorSet, Unfit> {
    let selectors: Result<Vec<_>, _> = pairs.iter().map(|(kind, value)| Selector::new(kind, value)).collect();
    Ok(SelectorSet::from_iter(selectors?))
}

/// Columns that a migration added are null in older rows.
fn flag(row: &Row<'_>, column: &str) -> rusqlite::Result<bool> {
    Ok(row.get::<_, Option<bool>>(column)?.unwrap_or(false))
}

fn seconds(ttl: Option<i64>) -> Result<u32, Unfit> {
    let ttl = ttl.unwrap_or(0);
    u32::try_from(ttl).map_err(|_| format!("a lifetime of {ttl} seconds").into())
}

/// A time of an object as SPIRE reports it: whole seconds, rounded. An agent that was told a later time than this takes
/// the server for one that lags.
macro_rules! seconds {
    ($column:literal) => {
        concat!(
            "CAST(strftime('%s', ",
            $column,
            ") AS INTEGER) + (strftime('%f', ",
            $column,
            ") - strftime('%S', ",
            $column,
            ") >= 0.5)"
        )
    };
}
const ENTRIES: &str = concat!(
    "SELECT entry_id, *, ",
    seconds!("created_at"),
    " AS created FROM registered_entries ORDER BY id"
);
const AGENTS: &str = concat!(
    "SELECT spiffe_id, *, ",
    seconds!("expires_at"),
    " AS expires, ",
    seconds!("new_expires_at"),
    " AS new_expires FROM attested_node_entries ORDER BY id"
);
const BUNDLES: &str = "SELECT trust_domain, data FROM bundles ORDER BY trust_domain";
const FEDERATION: &str = "SELECT trust_domain, * FROM federated_trust_domains ORDER BY trust_domain";
// A token is a secret, so its row is named by its number.
const TOKENS: &str = "SELECT CAST(id AS TEXT), token, expiry FROM join_tokens ORDER BY id";
