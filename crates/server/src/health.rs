//! `grpc.health.v1.Health` on the admin socket: serving exactly while the server is ready.

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use vouchsafe_runtime::readiness::{Readiness, Report};

/// Keeps the answer current.
pub(crate) struct Health {
    reporter: HealthReporter,
    readiness: tokio::sync::watch::Receiver<Report>,
}

/// The service, and the task behind it.
pub(crate) fn service(readiness: &Readiness) -> (Health, Routes) {
    let (reporter, service) = tonic_health::server::health_reporter();
    (Health { reporter, readiness: readiness.watch() }, Routes::new(service))
}

impl Health {
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let ready = self.readiness.borrow_and_update().ready;
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            self.reporter.set_service_status("", status).await;
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = self.readiness.changed() => if changed.is_err() { return },
            }
        }
    }
}
