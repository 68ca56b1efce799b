//! `FetchJWTSVID`.

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use tonic::{Request, Status};
use tracing::error;
use vouchsafe_proto::workload;
use vouchsafe_types::spiffe_id::SpiffeId;

use super::request::{Api, check_security_header};
use crate::identity_set::Member;
use crate::limits::Limited;

/// One JWT-SVID per identity of the caller, or the one it names.
///
/// # Errors
///
/// The status that the RPC ends with.
pub async fn fetch(api: &Api, request: Request<workload::JwtsvidRequest>) -> Result<Bytes, Status> {
    check_security_header(request.metadata())?;
    if request.get_ref().audience.is_empty() {
        return Err(Status::invalid_argument("audience must be specified"));
    }
    if !request.get_ref().spiffe_id.is_empty() {
        SpiffeId::parse(&request.get_ref().spiffe_id)
            .map_err(|error| Status::invalid_argument(format!("invalid requested SPIFFE ID: {error}")))?;
    }
    let known = api.admit_checked(&request).await?;
    api.check_rate(Limited::FetchJwtSvid, &known)?;
    let workload::JwtsvidRequest { mut audience, spiffe_id } = request.into_inner();
    audience.sort_unstable();
    audience.dedup();
    let wanted = |member: &&Member| spiffe_id.is_empty() || member.slot.entry.spiffe_id.as_str() == spiffe_id;
    let mut wanted = known.set.members.iter().filter(wanted);
    let Some(first) = wanted.next() else { return Err(api.no_identity(&known.attested)) };
    let Some(second) = wanted.next() else { return token(api, first, &audience).await };
    let tokens =
        join_all([first, second].into_iter().chain(wanted).map(|member| token(api, member, &audience))).await;
    let mut response = BytesMut::new();
    for token in tokens {
        response.extend_from_slice(&token?);
    }
    Ok(response.freeze())
}

async fn token(api: &Api, member: &Member, audience: &[String]) -> Result<Bytes, Status> {
    let entry = &member.slot.entry;
    if !entry.jwt_svid_include_jti
        && let Some(held) = api.jwt.cache().token(entry, audience, api.clock.unix_now())
    {
        return Ok(held);
    }
    api.jwt.token(&member.slot, audience).await.map_err(|cause| {
        error!(spiffe_id = %entry.spiffe_id, error = %cause, "Could not fetch JWT-SVID");
        Status::unavailable(format!("could not fetch JWT-SVID: {cause}"))
    })
}
