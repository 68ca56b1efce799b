//! The entry that a rule makes for a Pod.

use serde_json::Value as Json;
use vouchsafe_cluster::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use vouchsafe_types::dns_name::check_dns_name;
use vouchsafe_types::entry::{EntryError, MAX_DNS_NAMES};
use vouchsafe_types::{SelectorSet, SpiffeId, TrustDomain};

use crate::draft::Draft;
use crate::objects::{Node, Pod};
use crate::rule::{Rule, RuleError, each_once, selector, spiffe_id};
use crate::template::{Data, Object, Template};

/// What is the same for all Pods.
#[derive(Clone, Debug)]
pub struct Place {
    /// The trust domain of the server.
    pub trust_domain: TrustDomain,
    /// The cluster's name, as the node attestor knows it.
    pub cluster_name: String,
    /// Such as `cluster.local`. May be empty.
    pub cluster_domain: String,
    /// The SPIFFE ID of the agent on a node.
    pub parent_id: Template,
}

/// The parent that a Pod's entry has unless the configuration says otherwise.
pub const DEFAULT_PARENT_ID: &str =
    "spiffe://{{ .TrustDomain }}/spire/agent/k8s_psat/{{ .ClusterName }}/{{ .NodeMeta.UID }}";

/// A Pod with all that an entry for it depends on.
#[derive(Debug)]
pub struct Subject {
    /// Its UID.
    pub uid: String,
    /// Its metadata and `spec`.
    pub pod: (Object, Object),
    /// The metadata and `spec` of where it runs.
    pub node: (Object, Object),
    /// The services in front of it: namespace and name.
    pub services: Vec<(String, String)>,
}

/// What a template sees of a Pod.
#[must_use]
pub fn pod_objects(pod: &Pod) -> (Object, Object) {
    (Object::meta(json(&pod.metadata)), Object::pod_spec(pod.spec.parsed()))
}

/// What a template sees of a node.
#[must_use]
pub fn node_objects(node: &Node) -> (Object, Object) {
    (Object::meta(json(&node.metadata)), Object::node_spec(node.spec.parsed()))
}

/// What a rule makes of a Pod.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The entry.
    pub draft: Draft,
    /// A name of a service that no certificate may have, and why: it and others like it were left out. Who may write
    /// `Endpoints` must not be able to take an entry away.
    pub left_out: Option<String>,
}

/// The entry that `rule` makes for `subject`.
///
/// # Errors
///
/// Which field gave nothing usable, and why.
pub fn render(rule: &Rule, subject: &Subject, place: &Place) -> Result<Rendered, RuleError> {
    let mut data = Data {
        trust_domain: place.trust_domain.as_str(),
        cluster_name: &place.cluster_name,
        cluster_domain: &place.cluster_domain,
        pod: None,
        node: subject.node.clone(),
    };
    let parent_id = id("parentIDTemplate", &place.parent_id, &data, &place.trust_domain)?;
    data.pod = Some(subject.pod.clone());
    let spiffe_id = id("spiffeIDTemplate", &rule.spiffe_id, &data, &place.trust_domain)?;
    let rendered = |field, template: &Template| {
        template.render(&data).map_err(|source| RuleError::Render { field, source })
    };
    let mut dns_names = Vec::new();
    for template in &rule.dns_names {
        dns_names.push(rendered("dnsNameTemplates", template)?);
    }
    let mut left_out = None;
    dns_names = each_once(dns_names);
    if rule.auto_populate_dns_names {
        for name in service_names(&subject.services, &place.cluster_domain) {
            match check_dns_name(&name) {
                _ if dns_names.contains(&name) => {}
                Err(error) => left_out = left_out.or_else(|| Some(format!("{name}: {error}"))),
                Ok(()) if dns_names.len() >= MAX_DNS_NAMES => {
                    left_out = left_out.or_else(|| Some(format!("{name}: {}", EntryError::DnsNames)));
                }
                Ok(()) => dns_names.push(name),
            }
        }
    }
    let mut selectors = vec![selector("pod-uid", &format!("k8s:pod-uid:{}", subject.uid))?];
    for template in &rule.workload_selectors {
        let text = rendered("workloadSelectorTemplates", template)?;
        selectors.push(selector("workloadSelectorTemplates", &text)?);
    }
    let draft = Draft {
        spiffe_id,
        parent_id,
        selectors: SelectorSet::from(selectors),
        x509_svid_ttl: rule.x509_svid_ttl,
        jwt_svid_ttl: rule.jwt_svid_ttl,
        federates_with: rule.federates_with.clone(),
        admin: rule.admin,
        downstream: rule.downstream,
        dns_names,
        hint: rule.hint.clone(),
        store_svid: false,
    };
    draft.check(&place.trust_domain).map_err(RuleError::Entry)?;
    Ok(Rendered { draft, left_out })
}

fn id(
    field: &'static str,
    template: &Template,
    data: &Data<'_>,
    trust_domain: &TrustDomain,
) -> Result<SpiffeId, RuleError> {
    let text = template.render(data).map_err(|source| RuleError::Render { field, source })?;
    let id = spiffe_id(field, &text)?;
    if !id.is_member_of(trust_domain) {
        return Err(RuleError::Foreign { field, text, expected: trust_domain.clone() });
    }
    Ok(id)
}

/// What clients in the cluster call the services, in order.
fn service_names(services: &[(String, String)], cluster_domain: &str) -> Vec<String> {
    let mut names = Vec::with_capacity(services.len() * 4);
    for (namespace, name) in services {
        names.extend([name.clone(), format!("{name}.{namespace}"), format!("{name}.{namespace}.svc")]);
        if !cluster_domain.is_empty() {
            names.push(format!("{name}.{namespace}.svc.{cluster_domain}"));
        }
    }
    names.sort_unstable();
    names
}

fn json(metadata: &ObjectMeta) -> Json {
    // Metadata has text keys only.
    serde_json::to_value(metadata).unwrap_or_default()
}
