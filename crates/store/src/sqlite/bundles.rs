//! Bundles, with their authorities as child rows in order.

use rusqlite::{Connection, OptionalExtension, params};
use vouchsafe_types::bundle::{Bundle, JwtAuthority, X509Authority};
use vouchsafe_types::trust_domain::TrustDomain;

use super::entries;
use super::fail::Fail;
use super::feed::Tx;
use super::text::Columns;
use crate::change::Position;
use crate::error::{Kind, Rejected};
use crate::store::{BundleChange, BundleUpdate, BundleWrite, DeleteMode, EntryChange};

pub(super) fn update(
    tx: &Tx<'_>,
    trust_domain: &TrustDomain,
    change: &BundleChange,
) -> Result<BundleUpdate, Fail> {
    let before = find(tx.conn, trust_domain)?;
    let existed = before.is_some();
    let before = before.unwrap_or_else(|| Bundle::new(trust_domain.clone()));
    let mut bundle = before.clone();
    change(&mut bundle)?;
    bundle.trust_domain = trust_domain.clone();
    bundle.sequence_number = before.sequence_number;
    if existed && bundle == before {
        return Ok(BundleUpdate { bundle, changed: false, position: tx.newest()? });
    }
    bundle.sequence_number += 1;
    write(tx.conn, &bundle)?;
    let position = tx.changed(Kind::Bundle, trust_domain.as_str())?;
    Ok(BundleUpdate { bundle, changed: true, position })
}

pub(super) fn put(
    tx: &Tx<'_>,
    trust_domain: &TrustDomain,
    how: BundleWrite,
    change: &BundleChange,
) -> Result<BundleUpdate, Fail> {
    let before = find(tx.conn, trust_domain)?;
    match (how, &before) {
        (BundleWrite::Create, Some(_)) => return Err(Fail::already_exists(Kind::Bundle, trust_domain)),
        (BundleWrite::Update, None) => return Err(Fail::not_found(Kind::Bundle, trust_domain)),
        _ => {}
    }
    let mut bundle = before.clone().unwrap_or_else(|| Bundle::new(trust_domain.clone()));
    change(&mut bundle)?;
    bundle.trust_domain = trust_domain.clone();
    if before.as_ref() == Some(&bundle) {
        return Ok(BundleUpdate { bundle, changed: false, position: tx.newest()? });
    }
    write(tx.conn, &bundle)?;
    let position = tx.changed(Kind::Bundle, trust_domain.as_str())?;
    Ok(BundleUpdate { bundle, changed: true, position })
}

/// Adds a bundle with the sequence number that it has.
pub(super) fn restore(tx: &Tx<'_>, bundle: &Bundle) -> Result<Position, Fail> {
    write(tx.conn, bundle)?;
    tx.changed(Kind::Bundle, bundle.trust_domain.as_str())
}

pub(super) fn delete(
    tx: &Tx<'_>,
    trust_domain: &TrustDomain,
    mode: DeleteMode,
) -> Result<(Bundle, Position), Fail> {
    let bundle = find(tx.conn, trust_domain)?.ok_or_else(|| Fail::not_found(Kind::Bundle, trust_domain))?;
    let federating = entries::federating_with(tx.conn, trust_domain.as_str())?;
    match mode {
        DeleteMode::Restrict if !federating.is_empty() => {
            let count = federating.len();
            let reason = format!("cannot delete bundle; federated with {count} registration entries");
            return Err(Rejected::new(reason).into());
        }
        DeleteMode::Restrict => {}
        DeleteMode::Delete => {
            for id in &federating {
                entries::delete(tx, id)?;
            }
        }
        DeleteMode::Dissociate => {
            let gone = trust_domain.clone();
            let dissociate: EntryChange = Box::new(move |entry| {
                entry.federates_with.retain(|with| *with != gone);
                Ok(())
            });
            for id in &federating {
                entries::update(tx, id, &dissociate)?;
            }
        }
    }
    remove(tx.conn, trust_domain)?;
    let position = tx.changed(Kind::Bundle, trust_domain.as_str())?;
    Ok((bundle, position))
}

pub(super) fn find(conn: &Connection, trust_domain: &TrustDomain) -> Result<Option<Bundle>, Fail> {
    let found: Option<(i64, i64)> = conn
        .prepare_cached("SELECT refresh_hint, sequence_number FROM bundles WHERE trust_domain = ?1")?
        .query_row([trust_domain.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((refresh_hint, sequence_number)) = found else {
        return Ok(None);
    };
    Ok(Some(Bundle {
        x509_authorities: x509_authorities(conn, trust_domain)?,
        jwt_authorities: jwt_authorities(conn, trust_domain)?,
        refresh_hint,
        sequence_number: sequence_number.cast_unsigned(),
        ..Bundle::new(trust_domain.clone())
    }))
}

/// Calls `each` for every bundle, in order of trust domain.
pub(super) fn scan(conn: &Connection, mut each: impl FnMut(Bundle) -> Result<(), Fail>) -> Result<(), Fail> {
    let names: Vec<TrustDomain> = conn
        .prepare("SELECT trust_domain FROM bundles ORDER BY trust_domain")?
        .query_map([], |row| Columns::of(row).parsed())?
        .collect::<Result<_, _>>()?;
    for name in &names {
        if let Some(bundle) = find(conn, name)? {
            each(bundle)?;
        }
    }
    Ok(())
}

fn x509_authorities(conn: &Connection, trust_domain: &TrustDomain) -> Result<Vec<X509Authority>, Fail> {
    let sql = "SELECT der, tainted FROM x509_authorities WHERE trust_domain = ?1 ORDER BY place";
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map([trust_domain.as_str()], |row| {
        Ok(X509Authority { der: row.get_ref(0)?.as_blob()?.into(), tainted: row.get(1)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn jwt_authorities(conn: &Connection, trust_domain: &TrustDomain) -> Result<Vec<JwtAuthority>, Fail> {
    let sql = "SELECT key_id, public_key, expires_at, tainted FROM jwt_authorities
               WHERE trust_domain = ?1 ORDER BY place";
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map([trust_domain.as_str()], |row| {
        Ok(JwtAuthority {
            key_id: row.get(0)?,
            public_key_der: row.get_ref(1)?.as_blob()?.into(),
            expires_at: row.get(2)?,
            tainted: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn write(conn: &Connection, bundle: &Bundle) -> Result<(), Fail> {
    remove(conn, &bundle.trust_domain)?;
    let name = bundle.trust_domain.as_str();
    // All 64 bits are a foreign domain's to choose.
    let sequence_number = bundle.sequence_number.cast_signed();
    conn.prepare_cached(
        "INSERT INTO bundles (trust_domain, refresh_hint, sequence_number) VALUES (?1, ?2, ?3)",
    )?
    .execute(params![name, bundle.refresh_hint, sequence_number])?;
    let mut x509 = conn.prepare_cached(
        "INSERT INTO x509_authorities (trust_domain, place, der, tainted) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for (place, authority) in (0_i64..).zip(&bundle.x509_authorities) {
        x509.execute(params![name, place, &*authority.der, authority.tainted])?;
    }
    let mut jwt = conn.prepare_cached(
        "INSERT INTO jwt_authorities (trust_domain, place, key_id, public_key, expires_at, tainted)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for (place, authority) in (0_i64..).zip(&bundle.jwt_authorities) {
        let JwtAuthority { key_id, public_key_der, expires_at, tainted } = authority;
        jwt.execute(params![name, place, key_id, &**public_key_der, expires_at, tainted])?;
    }
    Ok(())
}

/// The authorities go with their bundle.
fn remove(conn: &Connection, trust_domain: &TrustDomain) -> Result<(), Fail> {
    conn.prepare_cached("DELETE FROM bundles WHERE trust_domain = ?1")?.execute([trust_domain.as_str()])?;
    Ok(())
}
