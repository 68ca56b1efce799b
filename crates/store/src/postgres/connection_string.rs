//! Connection strings, in both of libpq's forms. No error shows a value: any of them may be the password.

use vouchsafe_types::secret::SecretText;

use super::settings::SettingsError;

/// The options of a connection string, in order.
pub(super) type Options = Vec<(String, SecretText)>;

/// Takes `text` apart: `key=value key='value'` or `postgresql://user:password@host:port/database?key=value`.
pub(super) fn parse(text: &str) -> Result<Options, SettingsError> {
    let url = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    match url {
        Some(rest) => parse_url(rest),
        None => parse_pairs(text),
    }
}

fn parse_pairs(text: &str) -> Result<Options, SettingsError> {
    let mut options = Options::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let malformed = || SettingsError::Malformed { after: last_name(&options) };
        let (name, value) = rest.split_once('=').ok_or_else(malformed)?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(malformed());
        }
        let (value, left) = parse_value(value.trim_start()).ok_or_else(malformed)?;
        options.push((name.to_owned(), value));
        rest = left.trim_start();
    }
    Ok(options)
}

/// A value, quoted or not, and what follows it. A backslash takes the next character as it is.
fn parse_value(text: &str) -> Option<(SecretText, &str)> {
    let quoted = text.starts_with('\'');
    let mut characters = text.char_indices().skip(usize::from(quoted));
    let mut value = String::with_capacity(text.len());
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.push(characters.next()?.1),
            '\'' if quoted => return Some((value.into(), &text[at + 1..])),
            space if !quoted && space.is_whitespace() => return Some((value.into(), &text[at..])),
            other => value.push(other),
        }
    }
    (!quoted).then(|| (value.into(), ""))
}

fn parse_url(rest: &str) -> Result<Options, SettingsError> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (account, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = account.split_once(':').unwrap_or((account, ""));
    let mut options = Options::new();
    let mut add = |name: &str, value: &str| -> Result<(), SettingsError> {
        if !value.is_empty() {
            let value = decode(value).ok_or(SettingsError::Escape { option: name.to_owned() })?;
            options.push((name.to_owned(), value));
        }
        Ok(())
    };
    add("user", user)?;
    add("password", password)?;
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for host in hosts.split(',').filter(|host| !host.is_empty()) {
        let (name, port) = split_port(host);
        names.push(name);
        ports.push(port);
    }
    add("host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        let ports: Vec<_> = ports.iter().map(|port| if port.is_empty() { "5432" } else { port }).collect();
        add("port", &ports.join(","))?;
    }
    add("dbname", database)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        add(name, value)?;
    }
    Ok(options)
}

/// `host:port`, `[v6]:port` or either without the port.
fn split_port(host: &str) -> (&str, &str) {
    if let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (address, port.strip_prefix(':').unwrap_or(""));
    }
    host.split_once(':').unwrap_or((host, ""))
}

/// Undoes percent encoding.
fn decode(text: &str) -> Option<SecretText> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok().map(SecretText::from)
}

/// The name of the last option that was understood, to say where the trouble begins.
fn last_name(options: &Options) -> String {
    options.last().map_or_else(|| "the beginning".to_owned(), |(name, _)| format!("option {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let options = parse(text).unwrap();
        options.iter().map(|(name, value)| (name.clone(), value.as_str().to_owned())).collect()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn both_forms_say_the_same() {
        let wanted = owned(&[
            ("user", "spire"),
            ("password", "a b'c\\d@/"),
            ("host", "db.example"),
            ("port", "5433"),
            ("dbname", "spire"),
            ("sslmode", "verify-full"),
        ]);
        let text =
            r"user=spire password='a b\'c\\d@/' host = db.example port=5433 dbname=spire sslmode=verify-full";
        assert_eq!(pairs(text), wanted);
        let url = "postgresql://spire:a%20b%27c%5Cd%40%2F@db.example:5433/spire?sslmode=verify-full";
        assert_eq!(pairs(url), wanted);
    }

    #[test]
    fn a_url_may_name_several_hosts_and_addresses_of_version_six() {
        let url = "postgres://u@[::1]:6000,b/d?target_session_attrs=read-write";
        let wanted = [
            ("user", "u"),
            ("host", "::1,b"),
            ("port", "6000,5432"),
            ("dbname", "d"),
            ("target_session_attrs", "read-write"),
        ];
        assert_eq!(pairs(url), owned(&wanted));
    }

    #[test]
    fn no_error_shows_the_password() {
        for text in ["user=u password='hunter2", "password=hunter2 host", "postgres://u:hunter2%zz@h/d"] {
            let error = parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }
}
