//! Federation relationships.

use rusqlite::{Connection, OptionalExtension, Row, params};
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::federation::{EndpointProfile, FederationRelationship};
use vouchsafe_types::trust_domain::TrustDomain;

use super::bundles;
use super::fail::Fail;
use super::feed::Tx;
use super::text::Columns;
use crate::change::Position;
use crate::error::Kind;
use crate::store::{BundleWrite, FederationChange};

pub(super) fn create(
    tx: &Tx<'_>,
    relationship: &FederationRelationship,
    bundle: Option<&Bundle>,
) -> Result<Position, Fail> {
    let trust_domain = &relationship.trust_domain;
    if find(tx.conn, trust_domain)?.is_some() {
        return Err(Fail::already_exists(Kind::Federation, trust_domain));
    }
    write(tx, relationship, bundle)
}

pub(super) fn update(
    tx: &Tx<'_>,
    trust_domain: &TrustDomain,
    change: &FederationChange,
    bundle: Option<&Bundle>,
) -> Result<(FederationRelationship, Position), Fail> {
    let before = find(tx.conn, trust_domain)?;
    let mut after = before.ok_or_else(|| Fail::not_found(Kind::Federation, trust_domain))?;
    change(&mut after)?;
    after.trust_domain = trust_domain.clone();
    let position = write(tx, &after, bundle)?;
    Ok((after, position))
}

pub(super) fn delete(
    tx: &Tx<'_>,
    trust_domain: &TrustDomain,
) -> Result<(FederationRelationship, Position), Fail> {
    let held = find(tx.conn, trust_domain)?;
    let held = held.ok_or_else(|| Fail::not_found(Kind::Federation, trust_domain))?;
    tx.conn
        .prepare_cached("DELETE FROM federation WHERE trust_domain = ?1")?
        .execute([trust_domain.as_str()])?;
    let position = tx.changed(Kind::Federation, trust_domain.as_str())?;
    Ok((held, position))
}

pub(super) fn find(
    conn: &Connection,
    trust_domain: &TrustDomain,
) -> Result<Option<FederationRelationship>, Fail> {
    let sql = "SELECT trust_domain, bundle_endpoint_url, profile, endpoint_spiffe_id FROM federation
               WHERE trust_domain = ?1";
    let found =
        conn.prepare_cached(sql)?.query_row([trust_domain.as_str()], |row| Ok(read(row))).optional()?;
    found.transpose()
}

/// Calls `each` for every relationship, in order of trust domain.
pub(super) fn scan(
    conn: &Connection,
    mut each: impl FnMut(FederationRelationship) -> Result<(), Fail>,
) -> Result<(), Fail> {
    let sql = "SELECT trust_domain, bundle_endpoint_url, profile, endpoint_spiffe_id FROM federation
               ORDER BY trust_domain";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(read(row)?)?;
    }
    Ok(())
}

/// The bundle goes first: whoever reads the relationship in the feed finds the bundle there already.
fn write(
    tx: &Tx<'_>,
    relationship: &FederationRelationship,
    bundle: Option<&Bundle>,
) -> Result<Position, Fail> {
    if let Some(given) = bundle {
        let given = given.clone();
        let set = move |bundle: &mut Bundle| {
            *bundle = given.clone();
            Ok(())
        };
        bundles::put(tx, &relationship.trust_domain, BundleWrite::Set, &(Box::new(set) as _))?;
    }
    let endpoint_spiffe_id = match &relationship.bundle_endpoint_profile {
        EndpointProfile::HttpsWeb => "",
        EndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => endpoint_spiffe_id.as_str(),
    };
    tx.conn
        .prepare_cached(
            "INSERT OR REPLACE INTO federation (trust_domain, bundle_endpoint_url, profile, endpoint_spiffe_id)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            relationship.trust_domain.as_str(),
            relationship.bundle_endpoint_url.as_str(),
            relationship.bundle_endpoint_profile.name(),
            endpoint_spiffe_id,
        ])?;
    tx.changed(Kind::Federation, relationship.trust_domain.as_str())
}

fn read(row: &Row<'_>) -> Result<FederationRelationship, Fail> {
    let mut columns = Columns::of(row);
    let (trust_domain, bundle_endpoint_url) = (columns.parsed()?, columns.parsed()?);
    let profile: String = columns.value()?;
    let bundle_endpoint_profile = match profile.as_str() {
        "https_web" => EndpointProfile::HttpsWeb,
        "https_spiffe" => EndpointProfile::HttpsSpiffe { endpoint_spiffe_id: columns.parsed()? },
        other => {
            let key: String = row.get(0)?;
            return Err(Fail::row("federation", &key, format!("unknown profile {other:?}")));
        }
    };
    Ok(FederationRelationship { trust_domain, bundle_endpoint_url, bundle_endpoint_profile })
}
