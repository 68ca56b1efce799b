//! Where the servers are.

use std::net::Ipv6Addr;

use vouchsafe_agent::servers::resolve::{MAX_SERVERS, Seed};
use vouchsafe_types::TrustDomain;

use super::{Config, Overrides, set};
use crate::config::observe;
use crate::config::problems::Problems;
use crate::config::section::Section;
use crate::go;

/// The servers of a file and its flags.
pub(super) struct Servers {
    /// Name or address of the first.
    pub(super) address: String,
    /// Its port.
    pub(super) port: u16,
    /// The others, each `host:port`.
    pub(super) more: Vec<String>,
}

impl Servers {
    /// The defaults for everything else.
    pub(super) fn into_config(self, trust_domain: TrustDomain) -> Config {
        Config { server_addresses: self.more, ..Config::new(trust_domain, self.address, self.port) }
    }
}

/// `server_address` and `server_port` as SPIRE has them, and `server_addresses`, of which the first stands in for
/// `server_address` if that is absent.
pub(super) fn read(section: &Section<'_>, flags: &Overrides, problems: &Problems) -> Option<Servers> {
    let address = set(&flags.server_address).or(section.text("server_address"));
    let file_port = section.port("server_port").filter(|port| *port != 0);
    let port = flags.server_port.filter(|port| *port != 0).or(file_port);
    let listed = read_list(section, port);
    if address.is_none() && listed.is_none() {
        problems.add("server_address must be configured");
    }
    let all_have_ports = address.is_none() && listed.as_ref().is_some_and(|listed| !listed.is_empty());
    if port.is_none() && !all_have_ports {
        problems.add("server_port must be configured");
    }
    let mut listed = listed.unwrap_or_default();
    let (address, port) = match address {
        Some(address) => (observe::trim_brackets(&address), port?),
        None if listed.is_empty() => return None,
        None => {
            let first = listed.remove(0);
            let (host, port) = first.rsplit_once(':')?;
            (observe::trim_brackets(host), port.parse().ok()?)
        }
    };
    Some(Servers { address, port, more: listed })
}

/// `None` if the key is absent or wrong.
fn read_list(section: &Section<'_>, port: Option<u16>) -> Option<Vec<String>> {
    const KEY: &str = "server_addresses";
    let texts = section.texts(KEY)?;
    if texts.is_empty() || texts.len() > MAX_SERVERS {
        section.problem(KEY, &format!("must have 1 to {MAX_SERVERS} servers, not {}", texts.len()));
        return None;
    }
    let mut listed = Vec::with_capacity(texts.len());
    let mut wrong = false;
    for (text, _) in texts {
        match with_port(&text, port) {
            Some(address) => listed.push(address),
            None => {
                wrong = true;
                let text = go::quote(&text);
                let missing = if port.is_none() { "; a server without a port needs server_port" } else { "" };
                section.problem(
                    KEY,
                    &format!("has {text}, which is not host, host:port or [IPv6]:port{missing}"),
                );
            }
        }
    }
    (!wrong).then_some(listed)
}

/// `host:port`, with brackets around an IPv6 address.
fn with_port(text: &str, port: Option<u16>) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = if bare.parse::<Ipv6Addr>().is_ok() {
        format!("[{bare}]:{}", port?)
    } else if text.contains(':') {
        text.to_owned()
    } else {
        format!("{text}:{}", port?)
    };
    let (host, number) = address.rsplit_once(':')?;
    let host_is_sound = host.starts_with('[') || !host.contains([':', '/', ' ', ']']);
    (host_is_sound && number != "0" && Seed::parse(&address).is_some()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_with_or_without_a_port() {
        let check = |text, expected: Option<&str>| {
            assert_eq!(with_port(text, Some(8081)).as_deref(), expected, "{text}");
        };
        check("a.example", Some("a.example:8081"));
        check("a.example:9", Some("a.example:9"));
        check("10.0.0.1", Some("10.0.0.1:8081"));
        check("2001:db8::1", Some("[2001:db8::1]:8081"));
        check("[2001:db8::1]", Some("[2001:db8::1]:8081"));
        check("[2001:db8::1]:9", Some("[2001:db8::1]:9"));
        for wrong in ["", "a:b", "a:0", "a:70000", "https://a", "a b", ":1", "a:1:2"] {
            check(wrong, None);
        }
        assert_eq!(with_port("a.example", None), None);
        assert_eq!(with_port("a.example:1", None).as_deref(), Some("a.example:1"));
    }
}
