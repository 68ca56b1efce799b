//! The database of a server: `DataStore "sql"`.

use std::path::PathBuf;
use std::time::Duration;

use vouchsafe_store::postgres::{self, Settings};

use super::DataStore;
use crate::config::plugins::Plugin;
use crate::config::problems::Problems;
use crate::config::section::Section;
use crate::go;

/// Reads the plugin's data; `None` if it does not say where the database is.
pub(super) fn read(store: &Plugin<'_>, problems: &Problems) -> Option<DataStore> {
    store.read_data(problems, |data| match database_type(data).as_deref() {
        Some("sqlite3") => sqlite(data),
        Some("postgres") => postgres(data),
        Some(kind) => {
            let advice = match kind {
                "aws_postgres" => "use \"postgres\" with a password",
                _ => "use \"sqlite3\" or \"postgres\"",
            };
            data.problem("database_type", &format!("{} is not supported yet: {advice}", go::quote(kind)));
            // Its other keys would only repeat it.
            KEYS.iter().for_each(|key| data.no_effect(key));
            None
        }
        None => {
            data.problem("database_type", "must be configured: \"sqlite3\" or \"postgres\"");
            KEYS.iter().for_each(|key| data.no_effect(key));
            None
        }
    })
}

fn sqlite(data: &Section<'_>) -> Option<DataStore> {
    let path = data.parsed("connection_string", sqlite_path);
    if path.is_none() && data.text("connection_string").is_none() {
        data.problem("connection_string", "must be configured: the path of the database file");
    }
    for key in ["ro_connection_string", "root_ca_path", "client_cert_path", "client_key_path"] {
        data.not_built(key, "remove it; it has no meaning for sqlite3");
    }
    data.not_built("disable_migration", "remove it; the database is always brought up to date");
    data.not_built("log_sql", "remove it");
    // Bounds on a pool of connections; SQLite is used through fewer.
    for key in ["max_open_conns", "max_idle_conns", "conn_max_lifetime"] {
        data.no_effect(key);
    }
    path.map(|path| DataStore::Sqlite { path })
}

fn postgres(data: &Section<'_>) -> Option<DataStore> {
    data.not_built("log_sql", "remove it; set log_statement in the database");
    let read_string = |key| {
        let text = data.text(key)?;
        if let Err(error) = postgres::check_connection_string(&text) {
            data.problem(key, &error.to_string());
        }
        Some(text)
    };
    let connection_string = read_string("connection_string");
    if connection_string.is_none() {
        let example = "\"host=db.example.org user=spire password=... dbname=spire sslmode=verify-full\"";
        data.problem("connection_string", &format!("must be configured, such as {example}"));
    }
    let mut settings = Settings::new(connection_string.unwrap_or_default());
    settings.ro_connection_string = read_string("ro_connection_string").map(Into::into);
    settings.root_ca_path = data.text("root_ca_path").map(PathBuf::from);
    settings.client_cert_path = data.text("client_cert_path").map(PathBuf::from);
    settings.client_key_path = data.text("client_key_path").map(PathBuf::from);
    if settings.client_cert_path.is_some() != settings.client_key_path.is_some() {
        data.problem("client_cert_path", &postgres::SettingsError::HalfIdentity.to_string());
    }
    let number = |key, min| {
        let number = data.integer(key, min, MAX_CONNECTIONS);
        number.and_then(|number| usize::try_from(number).ok())
    };
    if let Some(open) = number("max_open_conns", i64::try_from(postgres::MIN_OPEN).unwrap_or(2)) {
        settings.max_open_conns = open;
    }
    if let Some(idle) = number("max_idle_conns", 0) {
        settings.max_idle_conns = idle;
    }
    settings.conn_max_lifetime = data.duration("conn_max_lifetime").filter(|age| *age > Duration::ZERO);
    settings.disable_migration = data.flag("disable_migration").unwrap_or(false);
    Some(DataStore::Postgres(settings))
}

/// More connections than PostgreSQL takes well.
const MAX_CONNECTIONS: i64 = 1000;

/// Everything that one of the kinds has.
const KEYS: &[&str] = &[
    "connection_string",
    "ro_connection_string",
    "root_ca_path",
    "client_cert_path",
    "client_key_path",
    "max_open_conns",
    "max_idle_conns",
    "conn_max_lifetime",
    "disable_migration",
    "log_sql",
];

/// `database_type = "name"`, or `database_type "name" { … }`.
fn database_type(data: &Section<'_>) -> Option<String> {
    if data.is_object("database_type") {
        return data.named_sections("database_type").into_iter().next().map(|(name, _)| name);
    }
    data.text("database_type")
}

/// The file that a connection string of SQLite names: a path, or `file:path?options`.
fn sqlite_path(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("file:").unwrap_or(text);
    let (path, options) = path.split_once('?').unwrap_or((path, ""));
    let path = path.strip_prefix("//").unwrap_or(path);
    if path == ":memory:" || path.is_empty() || options.split('&').any(|option| option == "mode=memory") {
        return Err("a database in memory loses every entry at each restart; name a file".to_owned());
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_names_a_file() {
        for (text, expected) in [
            ("./.data/datastore.sqlite3", "./.data/datastore.sqlite3"),
            ("/run/spire/db", "/run/spire/db"),
            ("file:db.sqlite3?_busy_timeout=1", "db.sqlite3"),
            ("file:///run/db?mode=rw", "/run/db"),
        ] {
            assert_eq!(sqlite_path(text), Ok(PathBuf::from(expected)), "{text}");
        }
        for memory in [":memory:", "file::memory:", "file:x?mode=memory&cache=shared", "file:"] {
            assert!(sqlite_path(memory).is_err(), "{memory}");
        }
    }
    fn read_postgres(text: &str) -> (Option<DataStore>, String) {
        let (body, problems) = (crate::hcl::parse(text).unwrap(), Problems::default());
        let section = Section::top(&body, &problems);
        let read = postgres(&section);
        section.no_effect("database_type");
        section.finish();
        let told = problems.finish("test").err().map_or_else(String::new, |invalid| invalid.to_string());
        (read, told)
    }

    #[test]
    fn postgres_is_read_with_its_bounds() {
        let text = r#"
            database_type = "postgres"
            connection_string = "host=db user=spire password=x dbname=spire sslmode=verify-full"
            ro_connection_string = "postgres://spire:x@standby/spire"
            root_ca_path = "ca.pem"
            max_open_conns = 8
            max_idle_conns = 0
            conn_max_lifetime = "30m"
            disable_migration = true
        "#;
        let (read, told) = read_postgres(text);
        assert_eq!(told, "");
        let Some(DataStore::Postgres(settings)) = read else { panic!("{read:?}") };
        assert_eq!((settings.max_open_conns, settings.max_idle_conns), (8, 0));
        assert_eq!(settings.conn_max_lifetime, Some(Duration::from_secs(1800)));
        assert!(settings.disable_migration && settings.ro_connection_string.is_some());
        assert_eq!(settings.root_ca_path, Some(PathBuf::from("ca.pem")));
    }

    #[test]
    fn mistakes_are_named_and_no_password_is_shown() {
        for (text, part) in [
            ("", "connection_string: must be configured"),
            (r#"connection_string = "host=db password=hunter2 dbname=x""#, "user is missing"),
            (r#"connection_string = "user=u password='hunter2""#, "cannot be read after option user"),
            (
                r#"connection_string = "user=u password=hunter2 sslmode=allow""#,
                "sslmode must be disable, prefer",
            ),
            (r#"connection_string = "user=u service=hunter2""#, "the option service is not supported"),
            ("connection_string = \"user=u\"\n max_open_conns = 1", "from 2 to 1000"),
            ("connection_string = \"user=u\"\n client_key_path = \"k\"", "go together"),
            ("connection_string = \"user=u\"\n log_sql = true", "log_sql is not supported yet"),
        ] {
            let (_, told) = read_postgres(text);
            assert!(told.contains(part), "{text}: {told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
