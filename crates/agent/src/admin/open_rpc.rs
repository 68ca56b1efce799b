//! Counts an RPC of the admin socket for as long as it is open.

use std::sync::Arc;

use crate::workload_api::request::Connections;

/// One open RPC.
#[derive(Debug)]
pub struct OpenRpc {
    connections: Arc<Connections>,
}

impl OpenRpc {
    /// One more.
    #[must_use]
    pub fn new(connections: &Arc<Connections>) -> Self {
        connections.opened();
        Self { connections: Arc::clone(connections) }
    }
}

impl Drop for OpenRpc {
    fn drop(&mut self) {
        self.connections.closed();
    }
}
