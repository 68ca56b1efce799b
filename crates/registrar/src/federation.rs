//! What the `ClusterFederatedTrustDomain` objects say, and what to do about the difference. Pure.
//!
//! The oldest object for a trust domain counts. A relationship that no object declares is deleted, also when a person made it,
//! as spire-controller-manager does; but a broken object withdraws nothing: its last good version stays in force, and when
//! that is not known, no relationship is deleted that the object may have declared.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;
use serde_json::Value as Json;
use vouchsafe_types::bundle::format::from_spiffe_json;
use vouchsafe_types::{EndpointProfile, EndpointUrl, FederationRelationship, TrustDomain};

use crate::objects::ClusterFederatedTrustDomain;
use crate::rule::{RuleError, spiffe_id, trust_domain};
use crate::server::Relationship;
use crate::status::Verdict;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    trust_domain: String,
    #[serde(rename = "bundleEndpointURL")]
    bundle_endpoint_url: String,
    bundle_endpoint_profile: Profile,
    trust_domain_bundle: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Profile {
    r#type: String,
    #[serde(rename = "endpointSPIFFEID")]
    endpoint_spiffe_id: String,
}

/// What is wrong with a `ClusterFederatedTrustDomain`.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct FederationError(String);

/// Reads the `spec` of a `ClusterFederatedTrustDomain`.
///
/// # Errors
///
/// The first thing that is wrong with it.
pub fn parse(spec: &Json) -> Result<Relationship, FederationError> {
    let failed = |error: &dyn std::fmt::Display| FederationError(error.to_string());
    let spec = Spec::deserialize(spec).map_err(|error| failed(&RuleError::Malformed(error.to_string())))?;
    let trust_domain = trust_domain("trustDomain", &spec.trust_domain).map_err(|error| failed(&error))?;
    let url = EndpointUrl::parse(&spec.bundle_endpoint_url);
    let url = url.map_err(|error| FederationError(format!("invalid bundleEndpointURL: {error}")))?;
    let named = &spec.bundle_endpoint_profile.endpoint_spiffe_id;
    let profile = match spec.bundle_endpoint_profile.r#type.as_str() {
        "https_web" if named.is_empty() => EndpointProfile::HttpsWeb,
        "https_web" => {
            let error = "endpointSPIFFEID does not apply to the profile \"https_web\"; remove it";
            return Err(FederationError(error.to_owned()));
        }
        "https_spiffe" => {
            let id = spiffe_id("endpointSPIFFEID", named).map_err(|error| failed(&error))?;
            EndpointProfile::HttpsSpiffe { endpoint_spiffe_id: id }
        }
        other => {
            let error =
                format!("invalid bundleEndpointProfile type {other:?}; use https_spiffe or https_web");
            return Err(FederationError(error));
        }
    };
    let bundle = match spec.trust_domain_bundle.as_str() {
        "" => None,
        text => {
            let bundle = from_spiffe_json(&trust_domain, text.as_bytes());
            Some(bundle.map_err(|error| FederationError(format!("invalid trustDomainBundle: {error}")))?)
        }
    };
    let relationship =
        FederationRelationship { trust_domain, bundle_endpoint_url: url, bundle_endpoint_profile: profile };
    Ok((relationship, bundle))
}

/// What to do on the server.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "each says it")]
pub struct FederationPlan {
    pub create: Vec<Relationship>,
    pub update: Vec<Relationship>,
    pub delete: Vec<TrustDomain>,
}

/// The last good version of each object, by UID or name.
#[derive(Clone, Debug, Default)]
pub struct Federations {
    good: HashMap<String, Relationship>,
}

impl Federations {
    /// What is to be done so that the server has what `objects` say, and how each of them fares. `objects` are all there
    /// are of our class; with `spares_all` there may be others that cannot be read, and nothing is deleted.
    pub fn plan(
        &mut self,
        objects: &[&ClusterFederatedTrustDomain],
        current: &[FederationRelationship],
        spares_all: bool,
    ) -> (FederationPlan, BTreeMap<String, Verdict>) {
        let mut ordered = objects.to_vec();
        ordered.sort_by_key(|object| {
            let meta = &object.metadata;
            (meta.creation_timestamp.clone(), meta.uid.clone(), meta.name.clone())
        });
        let mut wanted: BTreeMap<TrustDomain, (Relationship, String)> = BTreeMap::new();
        let mut verdicts = BTreeMap::new();
        let mut spared = Spared { all: spares_all, ..Spared::default() };
        let mut good = HashMap::new();
        for object in ordered {
            let name = object.metadata.name.clone().unwrap_or_default();
            let id = object.metadata.uid.clone().unwrap_or_else(|| name.clone());
            let (relationship, error) = match parse(&object.spec) {
                Ok(relationship) => (Some(relationship), None),
                Err(error) => (self.good.get(&id).cloned(), Some(error)),
            };
            let verdict = match (error, &relationship) {
                (Some(error), held) => {
                    if held.is_none() {
                        spared.note(&object.spec);
                    }
                    let message = format!("{error}. What its last good version declared stays.");
                    Verdict::not("InvalidSpec", message)
                }
                (None, Some((one, _))) if wanted.contains_key(&one.trust_domain) => {
                    let by = &wanted[&one.trust_domain].1;
                    let message =
                        format!("{} is declared by an older object, {by}", one.trust_domain.as_str());
                    Verdict::not("TrustDomainMasked", message)
                }
                (None, _) => {
                    Verdict { ready: true, reason: "Applied", message: "the relationship is set".into() }
                }
            };
            verdicts.insert(name.clone(), verdict);
            if let Some(relationship) = relationship {
                good.insert(id, relationship.clone());
                wanted.entry(relationship.0.trust_domain.clone()).or_insert((relationship, name));
            }
        }
        self.good = good;
        let plan = difference(wanted.into_values().map(|(one, _)| one).collect(), current, &spared);
        (plan, verdicts)
    }
}

/// Relationships that a broken object may have declared.
#[derive(Debug, Default)]
struct Spared {
    all: bool,
    only: BTreeSet<TrustDomain>,
}

impl Spared {
    fn note(&mut self, spec: &Json) {
        let name = spec.get("trustDomain").and_then(Json::as_str).unwrap_or_default();
        match trust_domain("trustDomain", name) {
            Ok(name) => {
                self.only.insert(name);
            }
            Err(_) => self.all = true,
        }
    }
}

fn difference(
    wanted: Vec<Relationship>,
    current: &[FederationRelationship],
    spared: &Spared,
) -> FederationPlan {
    let held: HashMap<_, _> = current.iter().map(|held| (&held.trust_domain, held)).collect();
    let named: BTreeSet<_> = wanted.iter().map(|(one, _)| one.trust_domain.clone()).collect();
    let stays = |name: &TrustDomain| named.contains(name) || spared.all || spared.only.contains(name);
    let names = current.iter().map(|held| &held.trust_domain);
    let delete = names.filter(|name| !stays(name)).cloned().collect();
    let mut plan = FederationPlan { delete, ..FederationPlan::default() };
    for one in wanted {
        match held.get(&one.0.trust_domain) {
            None => plan.create.push(one),
            Some(held) if **held != one.0 => plan.update.push(one),
            Some(_) => {}
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, spec: Json) -> ClusterFederatedTrustDomain {
        let mut object = ClusterFederatedTrustDomain { spec, ..ClusterFederatedTrustDomain::default() };
        object.metadata.name = Some(name.to_owned());
        object
    }

    fn spec(trust_domain: &str) -> Json {
        json!({
            "trustDomain": trust_domain, "bundleEndpointURL": "https://b.example:8443",
            "bundleEndpointProfile": { "type": "https_spiffe", "endpointSPIFFEID": "spiffe://b.example/spire/server" },
        })
    }

    fn names(plan: &FederationPlan) -> (Vec<&str>, Vec<&str>, Vec<&str>) {
        (
            plan.create.iter().map(|(one, _)| one.trust_domain.as_str()).collect(),
            plan.update.iter().map(|(one, _)| one.trust_domain.as_str()).collect(),
            plan.delete.iter().map(TrustDomain::as_str).collect(),
        )
    }

    #[test]
    fn the_server_gets_what_is_declared_and_loses_the_rest() {
        let (a, b) = (object("a", spec("a.example")), object("b", spec("b.example")));
        let mut moved = parse(&b.spec).unwrap().0;
        moved.bundle_endpoint_url = EndpointUrl::parse("https://elsewhere.example").unwrap();
        let stray = parse(&spec("c.example")).unwrap().0;
        let (plan, verdicts) = Federations::default().plan(&[&a, &b], &[moved, stray], false);
        assert_eq!(names(&plan), (vec!["a.example"], vec!["b.example"], vec!["c.example"]));
        assert!(verdicts.values().all(|verdict| verdict.ready));
        let current: Vec<_> = [&a, &b].map(|object| parse(&object.spec).unwrap().0).into();
        assert_eq!(Federations::default().plan(&[&a, &b], &current, false).0, FederationPlan::default());
    }

    #[test]
    fn of_two_objects_for_a_trust_domain_the_first_counts_and_the_other_is_told() {
        let (a, b) = (object("a", spec("b.example")), object("b", spec("b.example")));
        let (plan, verdicts) = Federations::default().plan(&[&b, &a], &[], false);
        assert_eq!(names(&plan), (vec!["b.example"], vec![], vec![]));
        assert_eq!((verdicts["a"].ready, verdicts["b"].reason), (true, "TrustDomainMasked"));
    }

    #[test]
    fn an_object_that_was_broken_withdraws_nothing() {
        let good = object("a", spec("a.example"));
        let current = [parse(&good.spec).unwrap().0, parse(&spec("z.example")).unwrap().0];
        let mut broken = good.clone();
        broken.spec["bundleEndpointURL"] = json!("http://plain.example");
        let mut held = Federations::default();
        held.plan(&[&good], &current, false);
        let (plan, verdicts) = held.plan(&[&broken], &current, false);
        assert_eq!(names(&plan), (vec![], vec![], vec!["z.example"]), "its own stays as it was");
        assert!(verdicts["a"].message.contains("https scheme"), "{verdicts:?}");
        // After a restart only the trust domain is known, and then not even that.
        let (plan, _) = Federations::default().plan(&[&broken], &current, false);
        assert_eq!(names(&plan).2, ["z.example"]);
        broken.spec["trustDomain"] = json!("A B");
        let (plan, _) = Federations::default().plan(&[&broken], &current, false);
        assert_eq!(plan, FederationPlan::default());
    }

    #[test]
    fn while_an_object_cannot_be_read_at_all_no_relationship_is_deleted() {
        let a = object("a", spec("a.example"));
        let current = [parse(&spec("z.example")).unwrap().0];
        let (plan, _) = Federations::default().plan(&[&a], &current, true);
        assert_eq!(names(&plan), (vec!["a.example"], vec![], vec![]));
        let (plan, _) = Federations::default().plan(&[&a], &current, false);
        assert_eq!(names(&plan).2, ["z.example"]);
    }

    #[test]
    fn what_is_wrong_with_an_object_is_said() {
        let check = |path: &str, value: Json, expected: &str| {
            let mut spec = spec("a.example");
            *spec.pointer_mut(path).unwrap() = value;
            let error = parse(&spec).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("/trustDomain", json!(""), "invalid trustDomain");
        check("/bundleEndpointProfile/type", json!("http"), "invalid bundleEndpointProfile type \"http\"");
        check("/bundleEndpointProfile/type", json!("https_web"), "does not apply");
        check("/bundleEndpointProfile/endpointSPIFFEID", json!("x"), "invalid endpointSPIFFEID \"x\"");
        let mut with_bundle = spec("a.example");
        with_bundle["trustDomainBundle"] = json!("{");
        assert!(parse(&with_bundle).unwrap_err().to_string().contains("invalid trustDomainBundle"));
    }
}
