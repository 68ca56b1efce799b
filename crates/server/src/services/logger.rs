//! `spire.api.server.logger.v1.Logger`: how much this server logs, changed while it runs.

use tonic::{Request, Response, Status};
use tracing::info;
use vouchsafe_proto::spire::api::server::logger::v1::logger_server::Logger as LoggerApi;
use vouchsafe_proto::spire::api::server::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::log_level::{LogLevel, LogLevelControl};

use crate::audit::Audit;

/// Serves the level of the log.
pub(crate) struct LoggerService {
    log_level: LogLevelControl,
}

impl LoggerService {
    pub(crate) fn new(log_level: LogLevelControl) -> Self {
        info!(launch_log_level = %log_level.launch(), "Logger service configured");
        Self { log_level }
    }

    fn logger(&self) -> Response<types::Logger> {
        Response::new(types::Logger {
            current_level: to_proto(self.log_level.current()).into(),
            launch_level: to_proto(self.log_level.launch()).into(),
        })
    }
}

#[tonic::async_trait]
impl LoggerApi for LoggerService {
    async fn get_logger(&self, _: Request<GetLoggerRequest>) -> Result<Response<types::Logger>, Status> {
        info!("GetLogger Called");
        Ok(self.logger())
    }

    async fn set_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let audit = Audit::of(&request);
        let wanted = request.into_inner().new_level;
        let named = types::LogLevel::try_from(wanted);
        audit.add("new_log_level", named.map_or_else(|_| wanted.to_string(), |it| it.as_str_name().into()));
        let level = match named.map(from_proto) {
            Ok(Some(level)) => level,
            Ok(None) => {
                return Err(Status::invalid_argument("newLevel value cannot be LogLevel_UNSPECIFIED"));
            }
            Err(_) => return Err(Status::invalid_argument("unsupported log level")),
        };
        info!(new_log_level = %level, "SetLogLevel Called");
        self.log_level.set(level);
        Ok(self.logger())
    }

    async fn reset_log_level(
        &self,
        _: Request<ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        info!(launch_log_level = %self.log_level.launch(), "ResetLogLevel Called");
        self.log_level.reset();
        Ok(self.logger())
    }
}

fn to_proto(level: LogLevel) -> types::LogLevel {
    match level {
        LogLevel::Panic => types::LogLevel::Panic,
        LogLevel::Fatal => types::LogLevel::Fatal,
        LogLevel::Error => types::LogLevel::Error,
        LogLevel::Warn => types::LogLevel::Warn,
        LogLevel::Info => types::LogLevel::Info,
        LogLevel::Debug => types::LogLevel::Debug,
        LogLevel::Trace => types::LogLevel::Trace,
    }
}

fn from_proto(level: types::LogLevel) -> Option<LogLevel> {
    LogLevel::ALL.into_iter().find(|each| to_proto(*each) == level)
}
