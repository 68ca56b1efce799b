//! One connection, and how it is made.

use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Row, RowStream, Socket};

use super::fail::Fail;
use super::settings::Target;
use super::value::Value;

/// A connection. Dropping it closes it.
pub(crate) struct Session {
    client: Client,
    task: AbortHandle,
    opened: Instant,
}

/// The tasks that move the bytes of all connections. Dropping it ends them.
#[derive(Default)]
pub(crate) struct Tasks(Mutex<JoinSet<()>>);

/// Hears what other servers wrote.
pub(crate) type Notices = mpsc::UnboundedSender<u64>;

impl Session {
    /// Connects to the first host that will do. Each has the deadline of `target`, so that one that is silent does not
    /// keep the others from being asked.
    pub(crate) async fn connect(
        target: &Target,
        tasks: &Tasks,
        notices: Option<Notices>,
    ) -> Result<Self, Fail> {
        let (hosts, first) = (target.configs.len(), target.answered.load(Ordering::Relaxed));
        let mut failed = None;
        for number in (first..hosts).chain(0..first) {
            match Self::connect_to(target, number, tasks, notices.clone()).await {
                Ok(session) => {
                    target.answered.store(number, Ordering::Relaxed);
                    return Ok(session);
                }
                // What keeps the others from being used, such as that they are standbys, is not the cause.
                Err(fail) => {
                    failed.get_or_insert(fail);
                }
            }
        }
        Err(failed.unwrap_or_else(|| Fail::said("no host is named")))
    }

    async fn connect_to(
        target: &Target,
        number: usize,
        tasks: &Tasks,
        notices: Option<Notices>,
    ) -> Result<Self, Fail> {
        let config = target.configs.get(number).ok_or_else(|| Fail::Bug("no such host".to_owned()))?;
        let connecting = async {
            let session = match &target.tls {
                None => {
                    let (client, connection) = config.connect(NoTls).await?;
                    Self::of(client, tasks.start(connection, notices))
                }
                Some(tls) => {
                    let (client, connection) = config.connect(tls.current().await).await?;
                    Self::of(client, tasks.start(connection, notices))
                }
            };
            session.batch(SETUP).await?;
            Ok(session)
        };
        match timeout(target.connect_timeout, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(Fail::said(format!("no answer within {:?}", target.connect_timeout))),
        }
    }

    fn of(client: Client, task: AbortHandle) -> Self {
        Self { client, task, opened: Instant::now() }
    }

    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs statements without parameters.
    pub(crate) async fn batch(&self, sql: &str) -> Result<(), Fail> {
        Ok(self.client.batch_execute(sql).await?)
    }

    /// Runs a statement in one round trip. Calls that are polled one after the other go out together.
    pub(crate) async fn query(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Fail> {
        Ok(self.client.query_typed(sql, &typed(values)).await?)
    }

    /// Runs a statement that gives one row.
    pub(crate) async fn one(&self, sql: &str, values: &[Value<'_>]) -> Result<Row, Fail> {
        let row = self.query(sql, values).await?.pop();
        row.ok_or_else(|| Fail::row("meta", "", "it is empty"))
    }

    /// Runs a statement and says how many rows it touched.
    pub(crate) async fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<u64, Fail> {
        Ok(self.client.execute_typed(sql, &typed(values)).await?)
    }

    /// Runs a statement whose rows are read as they come.
    pub(crate) async fn stream(&self, sql: &str) -> Result<RowStream, Fail> {
        Ok(self.client.query_typed_raw(sql, Vec::<(bool, Type)>::new()).await?)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tasks {
    fn start<T>(&self, connection: Connection<Socket, T>, notices: Option<Notices>) -> AbortHandle
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(drive(connection, notices))
    }
}

/// Moves bytes until the connection ends.
async fn drive<T>(mut connection: Connection<Socket, T>, notices: Option<Notices>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notification(note)) => {
                let position = note.payload().parse().ok();
                if let Some((notices, position)) = notices.as_ref().zip(position)
                    && notices.send(position).is_err()
                {
                    // Whoever listened left.
                    return;
                }
            }
            Ok(AsyncMessage::Notice(notice)) => {
                tracing::debug!(message = notice.message(), "Database notice");
            }
            Ok(_) => {}
            // Calls that are under way hear of it.
            Err(_) => return,
        }
    }
}

fn typed<'a>(values: &'a [Value<'_>]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    values.iter().map(|value| (value as &(dyn ToSql + Sync), value.kind())).collect()
}

/// The failure to connect to `target`, with what to do about it.
pub(crate) fn explain(target: &Target, fail: &Fail) -> String {
    let (said, code) = match fail {
        Fail::Sql(said) => (said.to_string(), said.code().map(|code| code.code().to_owned())),
        other => (format!("{other:?}"), None),
    };
    let step = match code.as_deref() {
        Some("28P01") => "check user and password in connection_string",
        Some("28000") => "let this user in from here in the database's pg_hba.conf, or change sslmode",
        Some("3D000") => "create the database, or change dbname",
        Some("42501") => "let this user create the schema: GRANT CREATE ON DATABASE",
        Some("53300") => "lower max_open_conns, or raise max_connections of the database",
        Some(_) => "see the database's log",
        None => STEPS
            .iter()
            .find_map(|(part, step)| said.contains(part).then_some(*step))
            .unwrap_or("check connection_string, and that the database runs"),
    };
    format!("cannot connect to the {}: {said}; {step}", target.place)
}

/// What to do about a failure whose text has a certain part.
const STEPS: &[(&str, &str)] = &[
    ("failed to lookup", "check host in connection_string, and the name service"),
    ("resolve", "check host in connection_string, and the name service"),
    ("onnection refused", "check host and port in connection_string, and that the database runs"),
    ("server does not support TLS", "turn on ssl in the database, or set sslmode=disable"),
    (
        "UnknownIssuer",
        "set root_ca_path (or sslrootcert) to the authority that signed the database's certificate",
    ),
    ("not valid for name", "connect by a name that the database's certificate has, or set sslmode=verify-ca"),
    (
        "fatal alert",
        "check client_cert_path and client_key_path: the database refuses what this server shows",
    ),
    ("certificate", "check the database's certificate, and root_ca_path"),
    (
        "does not allow writes",
        "name the primary in connection_string; a standby goes into ro_connection_string",
    ),
    ("no answer within", "check the network and the database's load"),
];

/// What every connection is told first: its schema, its deadlines, and that a commit is on stable storage.
const SETUP: &str = "SET search_path = vouchsafe; SET client_min_messages = warning;
    SET statement_timeout = 5000; SET lock_timeout = 3000; SET idle_in_transaction_session_timeout = 5000;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
