//! The level of the log, looked at and changed while the agent runs.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::{error, info};
use vouchsafe_proto::spire::api::agent::logger::v1::logger_server::Logger as Service;
use vouchsafe_proto::spire::api::agent::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::log_level::{LogLevel, LogLevelControl};

use super::open_rpc::OpenRpc;
use crate::metrics::Metrics;
use crate::workload_api::request::Connections;

/// Serves `spire.api.agent.logger.v1.Logger`.
#[derive(Debug)]
pub struct Logger {
    level: LogLevelControl,
    connections: Arc<Connections>,
}

impl Logger {
    /// Over the process's level.
    #[must_use]
    pub fn new(level: LogLevelControl, metrics: &Metrics) -> Self {
        let connections = Arc::new(Connections::new(metrics.admin_api_connections("logger_api")));
        Self { level, connections }
    }

    fn state(&self) -> Response<types::Logger> {
        Response::new(types::Logger {
            current_level: number(self.level.current()),
            launch_level: number(self.level.launch()),
        })
    }
}

#[tonic::async_trait]
impl Service for Logger {
    async fn get_logger(&self, _: Request<GetLoggerRequest>) -> Result<Response<types::Logger>, Status> {
        let _open = OpenRpc::new(&self.connections);
        info!("GetLogger Called");
        Ok(self.state())
    }

    async fn set_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let _open = OpenRpc::new(&self.connections);
        let asked = request.into_inner().new_level;
        let level = level(asked).ok_or_else(|| {
            let problem = if asked == types::LogLevel::Unspecified as i32 {
                "newLevel value cannot be LogLevel_UNSPECIFIED"
            } else {
                "unsupported log level"
            };
            error!(problem, "Invalid argument");
            Status::invalid_argument(problem)
        })?;
        info!(new_log_level = %level, "SetLogLevel Called");
        self.level.set(level);
        Ok(self.state())
    }

    async fn reset_log_level(
        &self,
        _: Request<ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let _open = OpenRpc::new(&self.connections);
        info!(launch_log_level = %self.level.launch(), "ResetLogLevel Called");
        self.level.reset();
        Ok(self.state())
    }
}

/// The API has the same levels in the same order, after one that says nothing.
fn number(level: LogLevel) -> i32 {
    level as i32 + 1
}

fn level(number: i32) -> Option<LogLevel> {
    let place = usize::try_from(number).ok()?.checked_sub(1)?;
    LogLevel::ALL.get(place).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vouchsafe_runtime::metrics::Registry;

    fn logger(registry: &Registry) -> Logger {
        Logger::new(LogLevelControl::new(LogLevel::Info), &Metrics::new(registry.clone()))
    }

    async fn set(logger: &Logger, new_level: i32) -> Result<(i32, i32), String> {
        let answer = logger.set_log_level(Request::new(SetLogLevelRequest { new_level })).await;
        let levels = |state: types::Logger| (state.current_level, state.launch_level);
        answer.map(|state| levels(state.into_inner())).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn the_levels_of_the_api_are_ours() {
        for level in LogLevel::ALL {
            let name = types::LogLevel::try_from(number(level)).unwrap().as_str_name().to_lowercase();
            assert!(level.to_string().starts_with(&name), "{name}");
            assert_eq!(super::level(number(level)), Some(level));
        }
    }

    #[tokio::test]
    async fn the_level_is_changed_and_goes_back_to_what_it_was_at_launch() {
        let registry = Registry::new("spire_agent", &[]);
        let logger = logger(&registry);
        assert_eq!(set(&logger, 6).await, Ok((6, 5)));
        assert_eq!(set(&logger, 4).await, Ok((4, 5)));
        let reset = logger.reset_log_level(Request::new(ResetLogLevelRequest {})).await.unwrap().into_inner();
        assert_eq!((reset.current_level, reset.launch_level), (5, 5));
        let text = registry.render();
        assert!(text.contains("spire_agent_logger_api_connection 3"), "{text}");
        assert!(text.contains("spire_agent_logger_api_connections 0"), "{text}");
    }

    #[tokio::test]
    async fn a_level_that_there_is_not_is_refused() {
        let logger = logger(&Registry::new("spire_agent", &[]));
        assert_eq!(set(&logger, 0).await.unwrap_err(), "newLevel value cannot be LogLevel_UNSPECIFIED");
        for number in [8, -1, i32::MAX, i32::MIN] {
            assert_eq!(set(&logger, number).await.unwrap_err(), "unsupported log level");
        }
        assert_eq!(logger.level.current(), LogLevel::Info);
    }
}
