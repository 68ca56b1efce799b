//! The `federation` section: this server's bundle endpoint, and those that it fetches from.

use std::path::PathBuf;
use std::time::Duration;

use vouchsafe_server::config::federation as settings;
use vouchsafe_types::federation::{self as types, EndpointUrl, FederationRelationship};
use vouchsafe_types::{SpiffeId, TrustDomain};

use crate::config::observe::trim_brackets;
use crate::config::section::Section;
use crate::go;

/// Longer hints leave the others with old keys for long.
const LONG_REFRESH_HINT: Duration = Duration::from_secs(24 * 3600);
/// Nobody refreshes more often than this.
const SHORTEST_REFRESH_HINT: Duration = Duration::from_secs(60);

/// Federation with other trust domains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Federation {
    /// Where other trust domains get this one's bundle.
    pub bundle_endpoint: Option<BundleEndpoint>,
    /// Where this server gets the bundles of others, beside the relationships in the database.
    pub federates_with: Vec<FederationRelationship>,
}

/// Where other trust domains get this one's bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleEndpoint {
    /// Name or address to listen on.
    pub address: String,
    /// Port to listen on.
    pub port: u16,
    /// How often others should fetch, as the bundle says.
    pub refresh_hint: Duration,
    /// How it proves who it is.
    pub profile: EndpointProfile,
}

/// How the bundle endpoint proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointProfile {
    /// By this server's own SVID.
    HttpsSpiffe,
    /// By a certificate of the Web's authorities.
    HttpsWeb {
        /// The certificate and its chain.
        cert_file_path: PathBuf,
        /// Its key.
        key_file_path: PathBuf,
        /// How often the files are looked at.
        file_sync_interval: Duration,
    },
}

/// Reads `federation`.
pub(super) fn read(server: &Section<'_>) -> Federation {
    let Some(section) = server.section("federation") else { return Federation::default() };
    let bundle_endpoint = section.section("bundle_endpoint").and_then(read_endpoint);
    let named = section.named_sections("federates_with");
    let federates_with = named.into_iter().filter_map(|(name, peer)| read_peer(&name, peer)).collect();
    section.finish();
    Federation { bundle_endpoint, federates_with }
}

fn read_endpoint(section: Section<'_>) -> Option<BundleEndpoint> {
    let address = section.text("address").unwrap_or_else(|| "0.0.0.0".to_owned());
    let port = section.port("port").filter(|port| *port != 0);
    if port.is_none() {
        section.refuse("port", format!("{} must be configured", section.name("port")));
    }
    let refresh_hint = section.duration("refresh_hint");
    if let Some(hint) = refresh_hint {
        check_refresh_hint(&section, hint);
    }
    section.not_built("acme", ACME_ADVICE);
    let profile = read_profile(&section);
    section.finish();
    Some(BundleEndpoint {
        address: trim_brackets(&address),
        port: port?,
        refresh_hint: refresh_hint.unwrap_or(settings::BundleEndpoint::DEFAULT_REFRESH_HINT),
        profile: profile?,
    })
}

/// Warns of a hint that others cannot follow, or that leaves them with old keys for long.
pub(super) fn check_refresh_hint(section: &Section<'_>, hint: Duration) {
    if hint >= LONG_REFRESH_HINT {
        section.warn(
            "Bundle endpoint refresh hint set to a high value. To cover the case of unscheduled trust bundle updates, \
             it's recommended to have a smaller value, e.g. 5m",
        );
    } else if hint < SHORTEST_REFRESH_HINT {
        section.warn(
            "Bundle endpoint refresh hint set too low. SPIRE will not refresh more often than 1 minute",
        );
    }
}

const ACME_ADVICE: &str = "use serving_cert_file in profile \"https_web\" with a certificate that another program obtains and renews";

fn read_profile(endpoint: &Section<'_>) -> Option<EndpointProfile> {
    if !endpoint.has("profile") {
        if !endpoint.has("acme") {
            endpoint.warn(
                "Bundle endpoint is configured but has no profile set, using https_spiffe as default; please configure \
                 a profile explicitly. This will be fatal in a future release.",
            );
        }
        return Some(EndpointProfile::HttpsSpiffe);
    }
    let profiles = endpoint.named_sections("profile");
    if profiles.len() != 1 {
        endpoint.refuse("profile", "exactly one bundle endpoint profile is expected");
    }
    let mut chosen = None;
    for (name, profile) in profiles {
        chosen = match name.as_str() {
            "https_spiffe" => Some(EndpointProfile::HttpsSpiffe),
            "https_web" => read_web(&profile),
            _ => {
                endpoint.refuse(
                    "profile",
                    "unknown bundle endpoint profile configured; current supported profiles are \"https_spiffe\" and \
                     \"https_web\"",
                );
                continue;
            }
        };
        profile.finish();
    }
    chosen
}

fn read_web(profile: &Section<'_>) -> Option<EndpointProfile> {
    profile.not_built("acme", ACME_ADVICE);
    let Some(files) = profile.section("serving_cert_file") else {
        if !profile.has("acme") {
            let text = "malformed https_web profile configuration: 'serving_cert_file' is required";
            profile.refuse("serving_cert_file", text);
        }
        return None;
    };
    let required = |key| {
        let path = files.text(key);
        if path.is_none() {
            files.refuse(key, format!("{} must be configured", files.name(key)));
        }
        path
    };
    let (cert_file_path, key_file_path) = (required("cert_file_path"), required("key_file_path"));
    let interval = files.duration("file_sync_interval").filter(|interval| !interval.is_zero());
    files.finish();
    Some(EndpointProfile::HttpsWeb {
        cert_file_path: cert_file_path?.into(),
        key_file_path: key_file_path?.into(),
        file_sync_interval: interval.unwrap_or(settings::BundleEndpoint::DEFAULT_SYNC_INTERVAL),
    })
}

fn read_peer(name: &str, section: Section<'_>) -> Option<FederationRelationship> {
    let trust_domain = match TrustDomain::parse(name) {
        Ok(trust_domain) => Some(trust_domain),
        Err(error) => {
            section.refuse("", format!("could not parse trust domain {}: {error}", go::quote(name)));
            None
        }
    };
    let path = || format!("federation.federates_with[\"{name}\"].bundle_endpoint_url");
    let url = section.text("bundle_endpoint_url");
    let parsed = match &url {
        None => Err(format!("{} must be configured", path())),
        Some(url) if !url.to_ascii_lowercase().starts_with("https://") => {
            Err(format!("{} must use the HTTPS protocol; URL found: {}", path(), go::quote(url)))
        }
        Some(url) => EndpointUrl::parse(url).map_err(|error| format!("{}: {error}", path())),
    };
    let profile = read_peer_profile(name, &section);
    if let Err(error) = &parsed {
        section.refuse("bundle_endpoint_url", error);
    }
    section.finish();
    Some(FederationRelationship {
        trust_domain: trust_domain?,
        bundle_endpoint_url: parsed.ok()?,
        bundle_endpoint_profile: profile?,
    })
}

fn read_peer_profile(name: &str, section: &Section<'_>) -> Option<types::EndpointProfile> {
    const KEY: &str = "bundle_endpoint_profile";
    let relationship = format!("error parsing federation relationship for trust domain {}", go::quote(name));
    let profiles = section.named_sections(KEY);
    if !section.has(KEY) {
        let name = go::quote(name);
        let text = format!(
            "federation configuration for trust domain {name}: missing bundle endpoint configuration"
        );
        section.refuse(KEY, text);
    } else if profiles.len() != 1 {
        section.refuse(KEY, format!("{relationship}: exactly one bundle endpoint profile is expected"));
    }
    let mut chosen = None;
    for (profile, keys) in profiles {
        match profile.as_str() {
            "https_web" => chosen = Some(types::EndpointProfile::HttpsWeb),
            "https_spiffe" => match SpiffeId::parse(&keys.text("endpoint_spiffe_id").unwrap_or_default()) {
                Ok(endpoint_spiffe_id) => {
                    chosen = Some(types::EndpointProfile::HttpsSpiffe { endpoint_spiffe_id });
                }
                Err(error) => {
                    let text = format!("{relationship}: could not get endpoint SPIFFE ID: {error}");
                    keys.refuse("endpoint_spiffe_id", text);
                }
            },
            _ => {
                section.refuse(
                    KEY,
                    format!(
                        "{relationship}: no bundle endpoint profile defined; current supported profiles are \
                         \"https_spiffe\" and \"https_web\""
                    ),
                );
                continue;
            }
        }
        keys.finish();
    }
    chosen
}
