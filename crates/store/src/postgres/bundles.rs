//! Trust bundles with their authorities.

use std::collections::HashMap;

use futures_util::future;
use vouchsafe_types::bundle::{Bundle, JwtAuthority, X509Authority};
use vouchsafe_types::trust_domain::TrustDomain;

use super::entries;
use super::fail::Fail;
use super::session::Session;
use super::tx::Tx;
use super::value::{Columns, Value};
use crate::error::{Kind, Rejected};
use crate::store::{BundleChange, BundleWrite, DeleteMode, EntryChange};

/// A bundle as it is now, and whether it was another one before.
pub(super) type Written = (Bundle, bool);

pub(super) async fn update(
    tx: &mut Tx<'_>,
    trust_domain: &TrustDomain,
    change: &BundleChange,
) -> Result<Written, Fail> {
    let before = find(tx, trust_domain).await?;
    let existed = before.is_some();
    let before = before.unwrap_or_else(|| Bundle::new(trust_domain.clone()));
    let mut bundle = before.clone();
    change(&mut bundle)?;
    bundle.trust_domain = trust_domain.clone();
    bundle.sequence_number = before.sequence_number;
    if existed && bundle == before {
        return Ok((bundle, false));
    }
    bundle.sequence_number += 1;
    write(tx, &bundle).await?;
    Ok((bundle, true))
}

pub(super) async fn put(
    tx: &mut Tx<'_>,
    trust_domain: &TrustDomain,
    how: BundleWrite,
    change: &BundleChange,
) -> Result<Written, Fail> {
    let before = find(tx, trust_domain).await?;
    match (how, &before) {
        (BundleWrite::Create, Some(_)) => return Err(Fail::already_exists(Kind::Bundle, trust_domain)),
        (BundleWrite::Update, None) => return Err(Fail::not_found(Kind::Bundle, trust_domain)),
        _ => {}
    }
    let mut bundle = before.clone().unwrap_or_else(|| Bundle::new(trust_domain.clone()));
    change(&mut bundle)?;
    bundle.trust_domain = trust_domain.clone();
    if before.as_ref() == Some(&bundle) {
        return Ok((bundle, false));
    }
    write(tx, &bundle).await?;
    Ok((bundle, true))
}

pub(super) async fn delete(
    tx: &mut Tx<'_>,
    trust_domain: &TrustDomain,
    mode: DeleteMode,
) -> Result<Bundle, Fail> {
    let bundle = find(tx, trust_domain).await?.ok_or_else(|| Fail::not_found(Kind::Bundle, trust_domain))?;
    let federating = entries::federating_with(tx, trust_domain.as_str()).await?;
    match mode {
        DeleteMode::Restrict if !federating.is_empty() => {
            let count = federating.len();
            let reason = format!("cannot delete bundle; federated with {count} registration entries");
            return Err(Rejected::new(reason).into());
        }
        DeleteMode::Restrict => {}
        DeleteMode::Delete => {
            for id in &federating {
                entries::delete(tx, id).await?;
            }
        }
        DeleteMode::Dissociate => {
            let gone = trust_domain.clone();
            let dissociate: EntryChange = Box::new(move |entry| {
                entry.federates_with.retain(|with| *with != gone);
                Ok(())
            });
            for id in &federating {
                entries::update(tx, id, &dissociate).await?;
            }
        }
    }
    tx.execute(DELETE, &[trust_domain.as_str().into()]).await?;
    tx.changed(Kind::Bundle, trust_domain.as_str());
    Ok(bundle)
}

pub(super) async fn find_all(session: &Session, names: &[&str]) -> Result<Vec<Bundle>, Fail> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let names = [names.into()];
    let (bundles, x509, jwt) = future::join3(
        session.query(BUNDLES, &names),
        session.query(X509_AUTHORITIES, &names),
        session.query(JWT_AUTHORITIES, &names),
    )
    .await;
    assemble(&bundles?, &x509?, &jwt?)
}

/// Every bundle, in order of trust domain.
pub(super) async fn all(session: &Session) -> Result<Vec<Bundle>, Fail> {
    let rows = session.query("SELECT trust_domain FROM bundles ORDER BY trust_domain", &[]).await?;
    let names: Vec<&str> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    find_all(session, &names).await
}

/// Writes a bundle with the sequence number that it has.
pub(super) async fn write(tx: &mut Tx<'_>, bundle: &Bundle) -> Result<(), Fail> {
    let name = bundle.trust_domain.as_str();
    tx.execute(DELETE, &[name.into()]).await?;
    // All 64 bits are a foreign domain's to choose.
    let sequence_number = bundle.sequence_number.cast_signed();
    let sql = "INSERT INTO bundles (trust_domain, refresh_hint, sequence_number) VALUES ($1, $2, $3)";
    tx.execute(sql, &[name.into(), bundle.refresh_hint.into(), sequence_number.into()]).await?;
    // All at once: they go out together.
    let x509 = (0_i64..).zip(&bundle.x509_authorities).map(|(place, authority)| {
        let der = Value::Bytes(&authority.der);
        vec![name.into(), place.into(), der, authority.tainted.into()]
    });
    let jwt = (0_i64..).zip(&bundle.jwt_authorities).map(|(place, authority)| {
        let JwtAuthority { key_id, public_key_der, expires_at, tainted } = authority;
        let (key_id, key) = (key_id.as_str().into(), Value::Bytes(public_key_der));
        vec![name.into(), place.into(), key_id, key, (*expires_at).into(), (*tainted).into()]
    });
    let rows: Vec<(&str, Vec<Value<'_>>)> =
        x509.map(|row| (ADD_X509, row)).chain(jwt.map(|row| (ADD_JWT, row))).collect();
    let writes = rows.iter().map(|(sql, row)| tx.execute(sql, row));
    future::join_all(writes).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    tx.changed(Kind::Bundle, name);
    Ok(())
}

async fn find(tx: &Tx<'_>, trust_domain: &TrustDomain) -> Result<Option<Bundle>, Fail> {
    let names = [trust_domain.as_str()];
    let names = [names.as_slice().into()];
    let (bundles, x509, jwt) = future::join3(
        tx.query(BUNDLES, &names),
        tx.query(X509_AUTHORITIES, &names),
        tx.query(JWT_AUTHORITIES, &names),
    )
    .await;
    Ok(assemble(&bundles?, &x509?, &jwt?)?.pop())
}

fn assemble(
    bundles: &[tokio_postgres::Row],
    x509: &[tokio_postgres::Row],
    jwt: &[tokio_postgres::Row],
) -> Result<Vec<Bundle>, Fail> {
    let mut read = Vec::with_capacity(bundles.len());
    let mut places = HashMap::new();
    for row in bundles {
        let mut columns = Columns::of(row, "bundles");
        let mut bundle = Bundle::new(columns.parsed()?);
        bundle.refresh_hint = columns.value()?;
        bundle.sequence_number = columns.value::<i64>()?.cast_unsigned();
        places.insert(row.try_get::<_, &str>(0)?, read.len());
        read.push(bundle);
    }
    for row in x509 {
        let mut columns = Columns::of(row, "x509_authorities");
        let Some(bundle) = places.get(columns.value::<&str>()?).and_then(|place| read.get_mut(*place)) else {
            continue;
        };
        let der = columns.value::<&[u8]>()?.into();
        bundle.x509_authorities.push(X509Authority { der, tainted: columns.value()? });
    }
    for row in jwt {
        let mut columns = Columns::of(row, "jwt_authorities");
        let Some(bundle) = places.get(columns.value::<&str>()?).and_then(|place| read.get_mut(*place)) else {
            continue;
        };
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: columns.value()?,
            public_key_der: columns.value::<&[u8]>()?.into(),
            expires_at: columns.value()?,
            tainted: columns.value()?,
        });
    }
    Ok(read)
}

/// The authorities go with their bundle.
const DELETE: &str = "DELETE FROM bundles WHERE trust_domain = $1";
const BUNDLES: &str = "SELECT trust_domain, refresh_hint, sequence_number FROM bundles
    WHERE trust_domain = ANY ($1) ORDER BY trust_domain";
const X509_AUTHORITIES: &str = "SELECT trust_domain, der, tainted FROM x509_authorities
    WHERE trust_domain = ANY ($1) ORDER BY trust_domain, place";
const JWT_AUTHORITIES: &str =
    "SELECT trust_domain, key_id, public_key, expires_at, tainted FROM jwt_authorities
    WHERE trust_domain = ANY ($1) ORDER BY trust_domain, place";
const ADD_X509: &str =
    "INSERT INTO x509_authorities (trust_domain, place, der, tainted) VALUES ($1, $2, $3, $4)";
const ADD_JWT: &str =
    "INSERT INTO jwt_authorities (trust_domain, place, key_id, public_key, expires_at, tainted)
    VALUES ($1, $2, $3, $4, $5, $6)";
