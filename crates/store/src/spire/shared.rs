//! SPIRE's tables in PostgreSQL.
//!
//! They are copied, column by column, to or from SQLite in memory, where [`super`] reads and writes them; so both kinds of
//! database are understood by the same code. What a server has fits in memory: it holds all of it while it runs.

use rusqlite::types::Value as Cell;
use rusqlite::{Connection, params_from_iter};
use tokio::time::timeout;
use vouchsafe_types::trust_domain::TrustDomain;

use super::write::write_all;
use super::{SCHEMA, SpireDatabase, SpireError, SpireJournal, rows, unknown_schema};
use crate::change::Record;
use crate::postgres::RESTORE_DEADLINE;
use crate::postgres::fail::Fail;
use crate::postgres::session::{Session, Tasks, explain};
use crate::postgres::settings::{Settings, Target};
use crate::postgres::value::Value;
use crate::store::Contents;

/// Reads SPIRE's tables in the database that `settings` name.
///
/// # Errors
///
/// [`SpireError`]. A single row that is not understood is no error: it is named in [`SpireDatabase::left_out`].
pub async fn read(settings: &Settings, trust_domain: &TrustDomain) -> Result<SpireDatabase, SpireError> {
    let spire = Spire::open(settings).await?;
    let mirror = spire.within(spire.copy_out()).await?;
    let mut read = SpireDatabase { contents: Contents::default(), left_out: Vec::new() };
    let unusable = |error: rusqlite::Error| spire.unusable(mirrored(&error));
    rows::read_all(&mirror, trust_domain, &mut read).map_err(unusable)?;
    Ok(read)
}

/// Replaces what SPIRE's tables hold, wholly or not at all; their schema stays.
///
/// # Errors
///
/// [`SpireError`]; the tables are as they were.
pub async fn write(
    settings: &Settings,
    records: &[Record],
    journals: &[SpireJournal],
) -> Result<(), SpireError> {
    let spire = Spire::open(settings).await?;
    let filled = filled(records, journals).map_err(|error| spire.unusable(mirrored(&error)))?;
    spire.within(spire.copy_in(&filled)).await
}

struct Spire {
    session: Session,
    /// Moves the bytes of `session`.
    _tasks: Tasks,
    target: Target,
}

impl Spire {
    async fn open(settings: &Settings) -> Result<Self, SpireError> {
        let place = || "database".to_owned();
        let target = settings
            .primary()
            .map_err(|error| SpireError::Shared { place: place(), cause: std::sync::Arc::new(error) })?;
        let tasks = Tasks::default();
        let session = Session::connect(&target, &tasks, None).await.map_err(|fail| SpireError::Shared {
            place: target.place.clone(),
            cause: Fail::said(explain(&target, &fail)).cause(),
        })?;
        let spire = Self { session, _tasks: tasks, target };
        let found = spire.within(spire.schema()).await?;
        if found == SCHEMA {
            return Ok(spire);
        }
        let why = match found {
            SAME_NAME => "its user is called vouchsafe, and under that name SPIRE finds this program's tables instead of its own; \
                          use another user"
                .to_owned(),
            0 => "it has no table of migrations".to_owned(),
            found => unknown_schema(found),
        };
        Err(SpireError::Foreign { path: spire.target.place.clone().into(), why })
    }

    /// The version of SPIRE's tables, 0 if there are none. They are where the account's tables go by itself.
    async fn schema(&self) -> Result<i64, Fail> {
        self.session.batch(SETUP).await?;
        // By default the schema that is called as the user goes before others.
        let same_name = "SELECT current_user = 'vouchsafe' AND current_setting('search_path') LIKE '%$user%'";
        if self.session.one(same_name, &[]).await?.try_get::<_, bool>(0)? {
            return Ok(SAME_NAME);
        }
        let tables =
            "SELECT to_regclass('migrations') IS NOT NULL AND to_regclass('registered_entries') IS NOT NULL";
        if !self.session.one(tables, &[]).await?.try_get::<_, bool>(0)? {
            return Ok(0);
        }
        let version = "SELECT CAST(version AS BIGINT) FROM migrations ORDER BY id LIMIT 1";
        Ok(self.session.one(version, &[]).await?.try_get(0)?)
    }

    async fn copy_out(&self) -> Result<Connection, Fail> {
        let mirror = mirror().map_err(|error| mirrored(&error))?;
        self.session.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        for table in TABLES {
            let rows = self.session.query(&table.select(), &[]).await?;
            let insert = table.insert_cells();
            let mut statement = mirror.prepare(&insert).map_err(|error| mirrored(&error))?;
            for row in &rows {
                let mut cells = Vec::with_capacity(table.columns.len());
                for (place, (_, kind)) in table.columns.iter().enumerate() {
                    cells.push(match kind {
                        Int => row.try_get::<_, Option<i64>>(place)?.map_or(Cell::Null, Cell::Integer),
                        Flag => row.try_get::<_, Option<bool>>(place)?.map_or(Cell::Null, Cell::from),
                        Text | Time => {
                            row.try_get::<_, Option<String>>(place)?.map_or(Cell::Null, Cell::Text)
                        }
                        Bytes => row.try_get::<_, Option<Vec<u8>>>(place)?.map_or(Cell::Null, Cell::Blob),
                    });
                }
                statement.execute(params_from_iter(cells)).map_err(|error| mirrored(&error))?;
            }
        }
        self.session.batch("COMMIT").await?;
        Ok(mirror)
    }

    async fn copy_in(&self, filled: &[Filled]) -> Result<(), Fail> {
        self.session.batch("BEGIN").await?;
        for (table, rows) in filled {
            self.session.batch(&format!("DELETE FROM {}", table.name)).await?;
            let insert = table.insert_values();
            for cells in rows {
                let values: Vec<Value<'_>> = cells.iter().map(value).collect::<Result<_, _>>()?;
                self.session.execute(&insert, &values).await?;
            }
            if table.has_id() {
                // The next row that SPIRE adds gets a number of its own.
                let name = table.name;
                let next = format!(
                    "SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM {name}), false)"
                );
                self.session.batch(&next).await?;
            }
        }
        self.session.batch("COMMIT").await
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, Fail>>) -> Result<T, SpireError> {
        let late = || Fail::said(format!("no end within {RESTORE_DEADLINE:?}"));
        let ended = timeout(RESTORE_DEADLINE, work).await.unwrap_or_else(|_| Err(late()));
        ended.map_err(|fail| self.unusable(fail))
    }

    fn unusable(&self, fail: Fail) -> SpireError {
        SpireError::Shared { place: self.target.place.clone(), cause: fail.cause() }
    }
}

/// The tables are where the account's own go; and between two of them, many rows are converted.
const SETUP: &str = "RESET search_path; SET statement_timeout = 300000;
    SET idle_in_transaction_session_timeout = 300000";

/// In place of a version: SPIRE would not find its tables.
const SAME_NAME: i64 = -1;

/// A table with its rows.
type Filled = (&'static Table, Vec<Vec<Cell>>);

/// What SPIRE's tables are to hold.
fn filled(records: &[Record], journals: &[SpireJournal]) -> rusqlite::Result<Vec<Filled>> {
    let mut mirror = mirror()?;
    let tx = mirror.transaction()?;
    write_all(&tx, records, journals)?;
    let mut filled = Vec::new();
    for table in TABLES {
        let mut statement = tx.prepare(&format!("SELECT {} FROM {}", table.names(), table.name))?;
        let rows = statement.query_map([], |row| {
            // SQLite keeps a flag as a number.
            let cell = |(place, (_, kind)): (usize, &(&str, Kind))| match (kind, row.get(place)?) {
                (Flag, Cell::Integer(flag)) => Ok(Cell::Text((flag != 0).to_string())),
                (_, cell) => Ok(cell),
            };
            table.columns.iter().enumerate().map(cell).collect()
        })?;
        filled.push((table, rows.collect::<rusqlite::Result<_>>()?));
    }
    Ok(filled)
}

/// SPIRE's tables in memory, empty.
fn mirror() -> rusqlite::Result<Connection> {
    let mirror = Connection::open_in_memory()?;
    for table in TABLES {
        let columns = table.columns.iter().map(|(name, kind)| match (*name, kind) {
            ("id", _) => "id INTEGER PRIMARY KEY".to_owned(),
            (name, Int) => format!("{name} INTEGER"),
            (name, Flag) => format!("{name} BOOL"),
            (name, Text) => format!("{name} TEXT"),
            (name, Time) => format!("{name} DATETIME"),
            (name, Bytes) => format!("{name} BLOB"),
        });
        let columns: Vec<_> = columns.collect();
        mirror.execute_batch(&format!("CREATE TABLE {} ({})", table.name, columns.join(", ")))?;
    }
    Ok(mirror)
}

/// A parameter that the database reads as a text, or bytes, and converts itself.
fn value(cell: &Cell) -> Result<Value<'_>, Fail> {
    Ok(match cell {
        Cell::Null => Value::Nothing,
        Cell::Integer(number) => Value::Owned(number.to_string()),
        Cell::Text(text) => Value::Text(text),
        Cell::Blob(bytes) => Value::Bytes(bytes),
        Cell::Real(_) => return Err(Fail::Bug("SPIRE has no fractions".to_owned())),
    })
}

fn mirrored(error: &rusqlite::Error) -> Fail {
    Fail::Bug(format!("SPIRE's tables in memory: {error}"))
}

/// One of SPIRE's tables.
struct Table {
    name: &'static str,
    columns: &'static [(&'static str, Kind)],
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Int,
    Flag,
    Text,
    Time,
    Bytes,
}
use Kind::{Bytes, Flag, Int, Text, Time};

impl Table {
    fn names(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    fn has_id(&self) -> bool {
        self.columns.iter().any(|(name, _)| *name == "id")
    }

    /// The rows in the order in which they were added, with types that do not depend on the schema.
    fn select(&self) -> String {
        let columns = self.columns.iter().map(|(name, kind)| match kind {
            Int => format!("CAST({name} AS BIGINT)"),
            // As SPIRE's driver writes times into SQLite.
            Time => format!("to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00:00'"),
            Flag | Text | Bytes => (*name).to_owned(),
        });
        let columns: Vec<_> = columns.collect();
        let order = if self.has_id() { "id" } else { "1, 2" };
        format!("SELECT {} FROM {} ORDER BY {order}", columns.join(", "), self.name)
    }

    fn insert_cells(&self) -> String {
        let places: Vec<_> = (1..=self.columns.len()).map(|place| format!("?{place}")).collect();
        format!("INSERT INTO {} ({}) VALUES ({})", self.name, self.names(), places.join(", "))
    }

    fn insert_values(&self) -> String {
        let places = (1..).zip(self.columns).map(|(place, (_, kind))| match kind {
            Int => format!("CAST(${place} AS BIGINT)"),
            Flag => format!("CAST(${place} AS BOOLEAN)"),
            Time => format!("CAST(${place} AS TIMESTAMPTZ)"),
            Text | Bytes => format!("${place}"),
        });
        let places: Vec<_> = places.collect();
        format!("INSERT INTO {} ({}) VALUES ({})", self.name, self.names(), places.join(", "))
    }
}

macro_rules! tables {
    ($($name:ident: $($column:ident $kind:ident),*;)*) => {
        &[$(Table { name: stringify!($name), columns: &[$((tables!(@name $column), $kind)),*] }),*]
    };
    (@name kind) => { "type" };
    (@name $column:ident) => { stringify!($column) };
}

/// Those that hold something to take over, and the events, which are emptied on the way back: a reader that is behind
/// them reads everything.
const TABLES: &[Table] = tables! {
    bundles: id Int, created_at Time, updated_at Time, trust_domain Text, data Bytes;
    registered_entries: id Int, created_at Time, updated_at Time, entry_id Text, spiffe_id Text, parent_id Text,
        ttl Int, admin Flag, downstream Flag, expiry Int, revision_number Int, store_svid Flag, hint Text,
        jwt_svid_ttl Int, additional_attributes Bytes;
    selectors: id Int, created_at Time, updated_at Time, registered_entry_id Int, kind Text, value Text;
    dns_names: id Int, created_at Time, updated_at Time, registered_entry_id Int, value Text;
    federated_registration_entries: bundle_id Int, registered_entry_id Int;
    attested_node_entries: id Int, created_at Time, updated_at Time, spiffe_id Text, data_type Text,
        serial_number Text, expires_at Time, new_serial_number Text, new_expires_at Time, can_reattest Flag,
        agent_version Text;
    node_resolver_map_entries: id Int, created_at Time, updated_at Time, spiffe_id Text, kind Text, value Text;
    join_tokens: id Int, created_at Time, updated_at Time, token Text, expiry Int;
    federated_trust_domains: id Int, created_at Time, updated_at Time, trust_domain Text, bundle_endpoint_url Text,
        bundle_endpoint_profile Text, endpoint_spiffe_id Text, implicit Flag;
    ca_journals: id Int, created_at Time, updated_at Time, data Bytes, active_x509_authority_id Text,
        active_jwt_authority_id Text;
    registered_entries_events: id Int, created_at Time, updated_at Time, entry_id Text;
    attested_node_entries_events: id Int, created_at Time, updated_at Time, spiffe_id Text;
};
