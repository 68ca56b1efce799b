//! A federation relationship as flags, as an item of a JSON file, and as it is printed.

use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde_json::Value;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::spire::api::types::federation_relationship::BundleEndpointProfile;
use vouchsafe_types::SpiffeId;

use super::super::bundle_data::{self, BundleFormat};
use super::super::json_file::{self, Object};
use crate::console::Console;
use crate::go;

#[derive(Args, Debug)]
pub(super) struct RelationshipFlags {
    /// Name of the trust domain to federate with (e.g., example.org)
    #[arg(long = "trustDomain", value_name = "name", default_value = "", hide_default_value = true)]
    trust_domain: String,
    /// URL of the SPIFFE bundle endpoint that provides the trust bundle (must use the HTTPS protocol)
    #[arg(long = "bundleEndpointURL", value_name = "URL", default_value = "", hide_default_value = true)]
    url: String,
    /// Endpoint profile type: https_web or https_spiffe
    #[arg(
        long = "bundleEndpointProfile",
        value_name = "profile",
        default_value = "",
        hide_default_value = true
    )]
    profile: String,
    /// SPIFFE ID of the SPIFFE bundle endpoint server. Only used for 'https_spiffe' profile.
    #[arg(long = "endpointSpiffeID", value_name = "id", default_value = "", hide_default_value = true)]
    endpoint_id: String,
    /// Path to the trust domain bundle data (optional)
    #[arg(
        long = "trustDomainBundlePath",
        value_name = "path",
        default_value = "",
        hide_default_value = true
    )]
    bundle_path: String,
    /// The format of the bundle data (optional): pem or spiffe
    #[arg(long = "trustDomainBundleFormat", value_name = "format", default_value = "pem")]
    bundle_format: String,
}

/// What is said about a relationship, by flags or by an item of a file.
struct Said<'a> {
    trust_domain: &'a str,
    url: &'a str,
    profile: &'a str,
    endpoint_id: &'a str,
    bundle: Data<'a>,
    bundle_format: &'a str,
}

/// Where the bundle is.
enum Data<'a> {
    None,
    File(&'a str),
    Inline(&'a Value),
}

/// The relationships that a command is about.
pub(super) fn asked(
    flags: &RelationshipFlags,
    file: &str,
    console: &mut Console<'_>,
) -> anyhow::Result<Vec<types::FederationRelationship>> {
    if file.is_empty() {
        return Ok(vec![flags.said().message(console)?]);
    }
    if !flags.are_default() {
        bail!("cannot use other flags to specify relationship fields when 'data' flag is set");
    }
    let document = json_file::read(file, console)?;
    let mut relationships = Vec::new();
    for (index, item) in Object::new(&document, file)?.list("federationRelationships")?.iter().enumerate() {
        let item = Object::new(item, "federationRelationships")
            .and_then(|item| from_item(&item, console))
            .with_context(|| format!("could not parse item {index}"))?;
        relationships.push(item);
    }
    Ok(relationships)
}

fn from_item(item: &Object<'_>, console: &mut Console<'_>) -> anyhow::Result<types::FederationRelationship> {
    let text = |key| item.text(key);
    let said = Said {
        trust_domain: &text("trustDomain")?,
        url: &text("bundleEndpointURL")?,
        profile: &text("bundleEndpointProfile")?,
        endpoint_id: &text("endpointSPIFFEID")?,
        bundle: item.get("trustDomainBundle").map_or(Data::None, Data::Inline),
        bundle_format: &text("trustDomainBundleFormat")?,
    };
    said.message(console)
}

impl RelationshipFlags {
    fn are_default(&self) -> bool {
        let texts = [&self.trust_domain, &self.url, &self.profile, &self.endpoint_id, &self.bundle_path];
        texts.iter().all(|text| text.is_empty()) && self.bundle_format == "pem"
    }

    fn said(&self) -> Said<'_> {
        Said {
            trust_domain: &self.trust_domain,
            url: &self.url,
            profile: &self.profile,
            endpoint_id: &self.endpoint_id,
            bundle: if self.bundle_path.is_empty() { Data::None } else { Data::File(&self.bundle_path) },
            bundle_format: &self.bundle_format,
        }
    }
}

impl Said<'_> {
    fn message(self, console: &mut Console<'_>) -> anyhow::Result<types::FederationRelationship> {
        if self.trust_domain.is_empty() {
            bail!("trust domain is required");
        }
        if self.url.is_empty() {
            bail!("bundle endpoint URL is required");
        }
        let mut bundle_of = self.trust_domain.to_owned();
        let profile = match self.profile {
            "https_web" => BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {}),
            "https_spiffe" => {
                if self.endpoint_id.is_empty() {
                    bail!("endpoint SPIFFE ID is required if 'https_spiffe' endpoint profile is set");
                }
                let id =
                    SpiffeId::parse(self.endpoint_id).context("cannot parse bundle endpoint SPIFFE ID")?;
                // The bundle is that of the trust domain which the endpoint belongs to, as SPIRE has it.
                id.trust_domain_name().clone_into(&mut bundle_of);
                let endpoint_spiffe_id = self.endpoint_id.to_owned();
                BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile { endpoint_spiffe_id })
            }
            other => bail!("unknown bundle endpoint profile type: {}", go::quote(other)),
        };
        Ok(types::FederationRelationship {
            trust_domain: self.trust_domain.to_owned(),
            bundle_endpoint_url: self.url.to_owned(),
            trust_domain_bundle: self.bundle(&bundle_of, console)?,
            bundle_endpoint_profile: Some(profile),
        })
    }

    fn bundle(&self, of: &str, console: &mut Console<'_>) -> anyhow::Result<Option<types::Bundle>> {
        match self.bundle {
            Data::None => Ok(None),
            Data::File(path) => {
                let data = json_file::read_bytes(Some(path), console)
                    .map_err(|error| anyhow!("cannot read bundle file: {error}"))?;
                // Anything but PEM is a SPIFFE document here, as SPIRE has it.
                let format =
                    if self.bundle_format == "pem" { BundleFormat::Pem } else { BundleFormat::Spiffe };
                bundle_data::parse(&data, format, of).context("cannot parse bundle file").map(Some)
            }
            Data::Inline(value) => {
                self.inline(value, of).context("cannot parse bundle raw message").map(Some)
            }
        }
    }

    fn inline(&self, value: &Value, of: &str) -> anyhow::Result<types::Bundle> {
        match self.bundle_format {
            "pem" => {
                let text = value.as_str().ok_or_else(|| anyhow!("failed to unmarshal json: not a string"))?;
                bundle_data::parse(text.as_bytes(), BundleFormat::Pem, of)
            }
            "spiffe" => bundle_data::parse(value.to_string().as_bytes(), BundleFormat::Spiffe, of),
            other => bail!("bundle format {} is unsupported", go::quote(other)),
        }
    }
}

/// The relationship, one line a value.
pub(super) fn render(relationship: &types::FederationRelationship) -> String {
    let mut lines = vec![
        ("Trust domain", relationship.trust_domain.as_str()),
        ("Bundle endpoint URL", &relationship.bundle_endpoint_url),
    ];
    match &relationship.bundle_endpoint_profile {
        None => {}
        Some(BundleEndpointProfile::HttpsWeb(_)) => lines.push(("Bundle endpoint profile", "https_web")),
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => {
            lines.push(("Bundle endpoint profile", "https_spiffe"));
            lines.push(("Endpoint SPIFFE ID", &profile.endpoint_spiffe_id));
        }
    }
    lines.into_iter().map(|(label, value)| format!("{label:<26}: {value}\n")).collect()
}
