//! Federation relationships.

use tokio_postgres::Row;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::federation::{EndpointProfile, FederationRelationship};
use vouchsafe_types::trust_domain::TrustDomain;

use super::bundles;
use super::fail::Fail;
use super::session::Session;
use super::tx::Tx;
use super::value::Columns;
use crate::error::Kind;
use crate::store::{BundleWrite, FederationChange};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT trust_domain, bundle_endpoint_url, profile, endpoint_spiffe_id FROM federation ",
            $rest
        )
    };
}

pub(super) async fn create(
    tx: &mut Tx<'_>,
    relationship: &FederationRelationship,
    bundle: Option<&Bundle>,
) -> Result<(), Fail> {
    let trust_domain = &relationship.trust_domain;
    if find(tx, trust_domain).await?.is_some() {
        return Err(Fail::already_exists(Kind::Federation, trust_domain));
    }
    write(tx, relationship, bundle).await
}

pub(super) async fn update(
    tx: &mut Tx<'_>,
    trust_domain: &TrustDomain,
    change: &FederationChange,
    bundle: Option<&Bundle>,
) -> Result<FederationRelationship, Fail> {
    let before = find(tx, trust_domain).await?;
    let mut after = before.ok_or_else(|| Fail::not_found(Kind::Federation, trust_domain))?;
    change(&mut after)?;
    after.trust_domain = trust_domain.clone();
    write(tx, &after, bundle).await?;
    Ok(after)
}

pub(super) async fn delete(
    tx: &mut Tx<'_>,
    trust_domain: &TrustDomain,
) -> Result<FederationRelationship, Fail> {
    let held = find(tx, trust_domain).await?;
    let held = held.ok_or_else(|| Fail::not_found(Kind::Federation, trust_domain))?;
    tx.execute("DELETE FROM federation WHERE trust_domain = $1", &[trust_domain.as_str().into()]).await?;
    tx.changed(Kind::Federation, trust_domain.as_str());
    Ok(held)
}

pub(super) async fn find_all(session: &Session, names: &[&str]) -> Result<Vec<FederationRelationship>, Fail> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let rows = session.query(select!("WHERE trust_domain = ANY ($1)"), &[names.into()]).await?;
    rows.iter().map(read).collect()
}

pub(super) fn read(row: &Row) -> Result<FederationRelationship, Fail> {
    let mut columns = Columns::of(row, "federation");
    let (trust_domain, bundle_endpoint_url) = (columns.parsed()?, columns.parsed()?);
    let bundle_endpoint_profile = match columns.value::<&str>()? {
        "https_web" => EndpointProfile::HttpsWeb,
        "https_spiffe" => EndpointProfile::HttpsSpiffe { endpoint_spiffe_id: columns.parsed()? },
        other => {
            let key: &str = row.try_get(0)?;
            return Err(Fail::row("federation", key, format!("unknown profile {other:?}")));
        }
    };
    Ok(FederationRelationship { trust_domain, bundle_endpoint_url, bundle_endpoint_profile })
}

async fn find(tx: &Tx<'_>, trust_domain: &TrustDomain) -> Result<Option<FederationRelationship>, Fail> {
    let rows = tx.query(select!("WHERE trust_domain = $1"), &[trust_domain.as_str().into()]).await?;
    rows.first().map(read).transpose()
}

/// The bundle goes first: whoever reads the relationship in the feed finds the bundle there already.
async fn write(
    tx: &mut Tx<'_>,
    relationship: &FederationRelationship,
    bundle: Option<&Bundle>,
) -> Result<(), Fail> {
    if let Some(given) = bundle {
        let given = given.clone();
        let set = move |bundle: &mut Bundle| {
            *bundle = given.clone();
            Ok(())
        };
        bundles::put(tx, &relationship.trust_domain, BundleWrite::Set, &(Box::new(set) as _)).await?;
    }
    let endpoint_spiffe_id = match &relationship.bundle_endpoint_profile {
        EndpointProfile::HttpsWeb => "",
        EndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => endpoint_spiffe_id.as_str(),
    };
    let values = [
        relationship.trust_domain.as_str().into(),
        relationship.bundle_endpoint_url.as_str().into(),
        relationship.bundle_endpoint_profile.name().into(),
        endpoint_spiffe_id.into(),
    ];
    let sql = "INSERT INTO federation (trust_domain, bundle_endpoint_url, profile, endpoint_spiffe_id)
               VALUES ($1, $2, $3, $4) ON CONFLICT (trust_domain)
               DO UPDATE SET bundle_endpoint_url = $2, profile = $3, endpoint_spiffe_id = $4";
    tx.execute(sql, &values).await?;
    tx.changed(Kind::Federation, relationship.trust_domain.as_str());
    Ok(())
}

/// Every relationship, in order of trust domain.
pub(super) const ALL: &str = select!("ORDER BY trust_domain");
