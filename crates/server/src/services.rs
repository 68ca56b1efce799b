//! The gRPC services. Each reads the model and memory; only what an operator writes, and the join token of a new
//! agent, goes to the store.

pub(crate) mod agent;
pub(crate) mod attest;
pub(crate) mod bundle;
pub(crate) mod contacts;
pub(crate) mod debug;
mod downstream;
pub(crate) mod entry;
mod federated_bundle;
pub(crate) mod local_authority;
pub(crate) mod logger;
pub(crate) mod revisions;
pub(crate) mod svid;
mod sync;
pub(crate) mod trust_domain;

use tonic::{Request, Status};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::authorize::{Caller, Registry};

/// The agent that calls. The authorization layer has let it through; it may have been evicted since.
fn calling_agent<T>(registry: &dyn Registry, request: &Request<T>) -> Result<Agent, Status> {
    let id = calling_agent_id(request)?;
    registry.agent(&id).ok_or_else(|| Status::not_found("agent not found"))
}

fn calling_agent_id<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Agent(id)) => Ok(id.clone()),
        _ => Err(Status::internal("caller ID missing from request context")),
    }
}
