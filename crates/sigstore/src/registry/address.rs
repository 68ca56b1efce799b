//! URLs that a registry sends us to. Pure.
//!
//! Policy: a registry may name token services and storage on the Internet, and itself. It may not make this node ask
//! addresses of the node's own network, such as a cloud's metadata service: see [`is_internal`]. A name that leads to
//! such an address is not noticed here; TLS, and a certificate for that name, are in the way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::excerpt::excerpt;

/// `location`, seen from `from`, as an absolute URL that a registry at `base` may redirect to.
pub(super) fn redirected(from: &str, location: &str, base: &str) -> Result<String, &'static str> {
    let target = absolute(from, location).ok_or("to something other than https")?;
    if is_internal(host(authority(&target))) && authority(&target) != authority(base) {
        return Err("into the network of this node");
    }
    Ok(target)
}

/// Whether credentials for the registry at `base` may go to `realm`.
pub(super) fn is_token_service(realm: &str, base: &str) -> bool {
    let safe = realm.starts_with("https://")
        || realm.starts_with("http://") && base.starts_with("http://") && is_loopback(host(authority(realm)));
    safe && (authority(realm) == authority(base) || !is_internal(host(authority(realm))))
}

/// `None` unless it is `https`, or stays where it was.
fn absolute(from: &str, location: &str) -> Option<String> {
    if location.starts_with("https://") {
        return Some(location.to_owned());
    }
    if location.starts_with('/') && !location.starts_with("//") {
        let (scheme, _) = from.split_once("://")?;
        return Some(format!("{scheme}://{}{location}", authority(from)));
    }
    (location.starts_with("http://") && authority(location) == authority(from) && from.starts_with("http://"))
        .then(|| location.to_owned())
}

/// Where, without what is after `?`: addresses of storage carry signatures there.
pub(super) fn place(url: &str) -> String {
    excerpt(url.split(['?', '#']).next().unwrap_or_default())
}

/// `host:port` of a URL.
pub(super) fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Nothing when there is a user name before it.
pub(super) fn host(authority: &str) -> &str {
    if authority.contains('@') {
        return "";
    }
    match authority.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether `host` is, without asking a name server, not on the Internet; nothing is not, either.
fn is_internal(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.is_empty() || host == "localhost" || host.ends_with(".localhost") {
        return true;
    }
    match host.parse() {
        Ok(IpAddr::V4(address)) => is_internal_4(address),
        Ok(IpAddr::V6(address)) => is_internal_6(address),
        // `127.1`, `2130706433` and `0x7f.1` are addresses for the system's resolver; so is one with a zone.
        Err(_) => host.contains(':') || host.contains('%') || is_number(host.rsplit('.').next()),
    }
}

fn is_number(label: Option<&str>) -> bool {
    let Some(label) = label else { return true };
    let hexadecimal = label.strip_prefix("0x");
    label.bytes().all(|b| b.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_internal_4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_multicast()
        || first == 0
        // RFC 6598: the network of a provider, also of clouds.
        || first == 100 && second & 0xc0 == 64
}

fn is_internal_6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let [.., a, b, c, d] = address.octets();
    // IPv4 in IPv6: mapped, compatible and RFC 6052.
    let carries = address.to_ipv4().is_some() || (first, second) == (0x64, 0xff9b);
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        || carries && is_internal_4(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_on_the_internet_are_known_in_every_form() {
        for internal in [
            "",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "127.0.0.1",
            "127.0.0.1.",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0X7F000001",
            "0177.0.0.1",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.100.100.200",
            "::1",
            "::",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "fe80::1%eth0",
            "fd00:ec2::254",
        ] {
            assert!(is_internal(internal), "{internal}");
        }
        for public in
            ["auth.docker.io", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "0x7g.example", "3com.com"]
        {
            assert!(!is_internal(public), "{public}");
        }
    }

    #[test]
    fn only_a_registry_on_loopback_has_its_token_service_in_the_clear() {
        for (realm, base, accepted) in [
            ("https://auth.example/token", "https://r.example", true),
            ("https://10.0.0.1:5000/token", "https://10.0.0.1:5000", true),
            ("https://10.0.0.2:5000/token", "https://10.0.0.1:5000", false),
            ("https://169.254.169.254/token", "https://r.example", false),
            ("http://127.0.0.1:5000/token", "http://127.0.0.1:5000", true),
            ("http://127.0.0.1:5001/token", "http://127.0.0.1:5000", false),
            ("http://127.0.0.1:5000/token", "https://127.0.0.1:5000", false),
            ("http://127.0.0.1/token", "https://r.example", false),
            ("http://auth.example/token", "http://127.0.0.1:5000", false),
            ("https://user@auth.example/token", "https://r.example", false),
        ] {
            assert_eq!(is_token_service(realm, base), accepted, "{realm} of {base}");
        }
    }
}
