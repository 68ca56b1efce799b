//! Reads the Prometheus text format.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

/// All series of a name.
pub(crate) struct Family {
    kind: String,
    labels: BTreeSet<String>,
}

impl Family {
    /// `name type labels`
    pub(crate) fn line(&self, name: &str) -> String {
        let labels: Vec<_> = self.labels.iter().map(String::as_str).collect();
        format!("{name} {} {}", self.kind, labels.join(",")).trim_end().to_owned()
    }
}

/// What the port serves, by name without `prefix_`; names without the prefix stay as they are.
pub(crate) fn scrape(port: u16, prefix: &str) -> BTreeMap<String, Family> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut families = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            current = name.strip_prefix(&format!("{prefix}_")).unwrap_or(name).to_owned();
            let family = Family { kind: kind.to_owned(), labels: BTreeSet::new() };
            assert!(families.insert(current.clone(), family).is_none(), "{name} is declared twice");
        } else if !line.starts_with('#') {
            let family = families.get_mut(&current).expect("a series after its type");
            family.labels.extend(labels(line));
        }
    }
    families
}

fn labels(line: &str) -> Vec<String> {
    let Some((_, rest)) = line.split_once('{') else { return Vec::new() };
    let inside = rest.rsplit_once('}').unwrap().0;
    let names = inside.split("\",").map(|pair| pair.split('=').next().unwrap().to_owned());
    names.filter(|name| !["host", "quantile", "le"].contains(&name.as_str())).collect()
}
