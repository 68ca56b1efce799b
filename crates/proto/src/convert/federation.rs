//! Federation relationships.

use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::federation::{EndpointProfile, EndpointUrl, FederationRelationship};
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::{ConvertError, bundle_from_proto, bundle_to_proto};
use crate::spire::api::types;
use crate::spire::api::types::federation_relationship::BundleEndpointProfile;

/// A relationship and the bundle that is held of its trust domain, reduced to the fields of `mask`.
#[must_use]
pub fn federation_to_proto(
    relationship: &FederationRelationship,
    bundle: Option<&Bundle>,
    mask: Option<&types::FederationRelationshipMask>,
) -> types::FederationRelationship {
    let wants = |field: fn(&types::FederationRelationshipMask) -> bool| mask.is_none_or(field);
    let mut message = types::FederationRelationship {
        trust_domain: relationship.trust_domain.as_str().to_owned(),
        ..types::FederationRelationship::default()
    };
    if wants(|m| m.bundle_endpoint_url) {
        message.bundle_endpoint_url = relationship.bundle_endpoint_url.as_str().to_owned();
    }
    if wants(|m| m.bundle_endpoint_profile) {
        message.bundle_endpoint_profile = Some(match &relationship.bundle_endpoint_profile {
            EndpointProfile::HttpsWeb => BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {}),
            EndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => {
                BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile {
                    endpoint_spiffe_id: endpoint_spiffe_id.to_string(),
                })
            }
        });
    }
    if wants(|m| m.trust_domain_bundle) {
        message.trust_domain_bundle = bundle.map(|bundle| bundle_to_proto(bundle, None));
    }
    message
}

/// The relationship, and the bundle of its trust domain if the message has one. All of it must be good, whatever is
/// to be used of it.
///
/// # Errors
///
/// The first field that is missing or wrong, in the words of SPIRE.
pub fn federation_from_proto(
    message: &types::FederationRelationship,
) -> Result<(FederationRelationship, Option<Bundle>), ConvertError> {
    let trust_domain = TrustDomain::parse(&message.trust_domain)
        .map_err(|source| ConvertError::unparsed("failed to parse trust domain", source))?;
    let bundle_endpoint_url =
        EndpointUrl::parse(&message.bundle_endpoint_url).map_err(ConvertError::EndpointUrl)?;
    let bundle_endpoint_profile = match &message.bundle_endpoint_profile {
        Some(BundleEndpointProfile::HttpsWeb(_)) => EndpointProfile::HttpsWeb,
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => EndpointProfile::HttpsSpiffe {
            endpoint_spiffe_id: SpiffeId::parse(&profile.endpoint_spiffe_id)
                .map_err(|source| ConvertError::unparsed("failed to parse endpoint SPIFFE ID", source))?,
        },
        None => return Err(ConvertError::EndpointProfile),
    };
    let bundle = message.trust_domain_bundle.as_ref().map(bundle_from_proto).transpose();
    let bundle = bundle.map_err(|source| ConvertError::unparsed("failed to parse bundle", source))?;
    if let (Some(bundle), Some(given)) = (&bundle, &message.trust_domain_bundle)
        && bundle.trust_domain != trust_domain
    {
        return Err(ConvertError::BundleOfAnother { bundle: given.trust_domain.clone(), trust_domain });
    }
    Ok((FederationRelationship { trust_domain, bundle_endpoint_url, bundle_endpoint_profile }, bundle))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> types::FederationRelationship {
        types::FederationRelationship {
            trust_domain: "b.example".into(),
            bundle_endpoint_url: "https://b.example:8443".into(),
            bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile {
                endpoint_spiffe_id: "spiffe://b.example/spire/server".into(),
            })),
            trust_domain_bundle: Some(types::Bundle {
                trust_domain: "b.example".into(),
                refresh_hint: 60,
                ..types::Bundle::default()
            }),
        }
    }

    #[test]
    fn a_relationship_comes_back_as_it_was_and_a_mask_leaves_fields_out() {
        let mut web = message();
        web.bundle_endpoint_profile = Some(BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {}));
        for message in [message(), web] {
            let (relationship, bundle) = federation_from_proto(&message).unwrap();
            assert_eq!(federation_to_proto(&relationship, bundle.as_ref(), None), message);
            let none = types::FederationRelationshipMask::default();
            let bare = types::FederationRelationship {
                trust_domain: "b.example".into(),
                ..types::FederationRelationship::default()
            };
            assert_eq!(federation_to_proto(&relationship, bundle.as_ref(), Some(&none)), bare);
        }
    }

    #[test]
    fn what_is_wrong_is_told_in_the_words_of_spire() {
        let check = |change: fn(&mut types::FederationRelationship), expected: &str| {
            let mut message = message();
            change(&mut message);
            assert_eq!(federation_from_proto(&message).unwrap_err().to_string(), expected);
        };
        check(|m| m.trust_domain.clear(), "failed to parse trust domain: trust domain is missing");
        check(
            |m| m.bundle_endpoint_url = "http://b.example".into(),
            "bundle endpoint URL must use the https scheme",
        );
        check(|m| m.bundle_endpoint_profile = None, "unsupported bundle endpoint profile type: <nil>");
        check(
            |m| {
                m.bundle_endpoint_profile =
                    Some(BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile::default()));
            },
            "failed to parse endpoint SPIFFE ID: cannot be empty",
        );
        check(
            |m| m.trust_domain = "c.example".into(),
            "trust domain bundle (\"b.example\") must match the trust domain of the federation relationship \
             (\"c.example\")",
        );
    }
}
