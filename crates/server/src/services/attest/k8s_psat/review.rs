//! What the API server says of a token, of its Pod and of its node, and who the agent is by that.

use std::collections::{BTreeMap, BTreeSet};

use vouchsafe_cluster::PartialObjectMeta;
use vouchsafe_cluster::k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use vouchsafe_cluster::k8s_openapi::api::core::v1::Node;
use vouchsafe_types::selector::{Selector, SelectorError, SelectorSet};

use super::NAME;
use super::pod::Pod;

/// Whose token it is.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Bearer {
    pub(super) namespace: String,
    pub(super) service_account: String,
    pub(super) pod_name: String,
    pub(super) pod_uid: String,
}

/// Why a review does not say whose token it is: in the words of SPIRE, before and after the cluster's name.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Unclear(pub(super) &'static str, pub(super) String);

impl Bearer {
    /// `namespace:name`
    pub(super) fn account(&self) -> String {
        format!("{}:{}", self.namespace, self.service_account)
    }

    /// Reads a review that says "authenticated".
    pub(super) fn of(user: Option<&UserInfo>) -> Result<Self, Unclear> {
        let username = user.and_then(|user| user.username.as_deref()).unwrap_or_default();
        let (namespace, service_account) =
            names(username).map_err(|why| Unclear("fail to parse username from token review status", why))?;
        let extra = user.and_then(|user| user.extra.as_ref());
        let only = |key| extra.and_then(|extra| extra.get(key)).map(Vec::as_slice);
        let pod_name = one(only(POD_NAME), "name")
            .map_err(|why| Unclear("fail to get pod name from token review status", why))?;
        let pod_uid = one(only(POD_UID), "UID")
            .map_err(|why| Unclear("fail to get pod UID from token review status", why))?;
        Ok(Self { namespace, service_account, pod_name, pod_uid })
    }
}

/// Whether the reviewer looked at the audience at all: one that knows nothing of audiences takes every token.
pub(super) fn has_audience(status: &TokenReviewStatus, wanted: &[String]) -> bool {
    let found = status.audiences.as_deref().unwrap_or_default();
    wanted.is_empty() || wanted.iter().any(|each| found.contains(each))
}

/// `system:serviceaccount:namespace:name`
fn names(username: &str) -> Result<(String, String), String> {
    if username.is_empty() {
        return Err("empty username".to_owned());
    }
    let parts: Vec<&str> = username.split(':').collect();
    match parts[..] {
        [_, _, "", _] => Err("missing namespace".to_owned()),
        [_, _, _, ""] => Err("missing service account name".to_owned()),
        [_, _, namespace, name] => Ok((namespace.to_owned(), name.to_owned())),
        _ => Err(format!("unexpected username format: {username}")),
    }
}

fn one(values: Option<&[String]>, what: &str) -> Result<String, String> {
    match values {
        None => Err(format!("missing pod {what}")),
        Some([value]) if value.is_empty() => Err(format!("pod {what} is empty")),
        Some([value]) => Ok(value.clone()),
        Some(values) => Err(format!("expected 1 {what} but got: {}", values.len())),
    }
}

/// What an agent is known by.
pub(super) struct Facts<'a> {
    pub(super) cluster: &'a str,
    pub(super) bearer: &'a Bearer,
    pub(super) pod: &'a Pod,
    pub(super) node: &'a PartialObjectMeta<Node>,
    pub(super) node_uid: &'a str,
}

impl Facts<'_> {
    /// Every selector, of the labels those with an allowed key.
    pub(super) fn selectors(
        &self,
        node_labels: &BTreeSet<String>,
        pod_labels: &BTreeSet<String>,
    ) -> Result<SelectorSet, SelectorError> {
        let Self { cluster, bearer, pod, node, node_uid } = self;
        let fixed = [
            format!("cluster:{cluster}"),
            format!("agent_ns:{}", bearer.namespace),
            format!("agent_sa:{}", bearer.service_account),
            format!("agent_pod_name:{}", bearer.pod_name),
            format!("agent_pod_uid:{}", bearer.pod_uid),
            format!("agent_node_ip:{}", pod.status.host_ip),
            format!("agent_node_name:{}", pod.spec.node_name),
            format!("agent_node_uid:{node_uid}"),
        ];
        let node = labelled("agent_node_label", node.metadata.labels.as_ref(), node_labels);
        let pod = labelled("agent_pod_label", pod.metadata.labels.as_ref(), pod_labels);
        fixed.into_iter().chain(node).chain(pod).map(|value| Selector::new(NAME, &value)).collect()
    }
}

fn labelled<'a>(
    kind: &'a str,
    labels: Option<&'a BTreeMap<String, String>>,
    allowed: &'a BTreeSet<String>,
) -> impl Iterator<Item = String> + 'a {
    let labels = labels.into_iter().flatten().filter(|(key, _)| allowed.contains(*key));
    labels.map(move |(key, value)| format!("{kind}:{key}:{value}"))
}

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, extra: &[(&str, &[&str])]) -> UserInfo {
        let list = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
        UserInfo {
            username: Some(name.to_owned()),
            extra: Some(extra.iter().map(|(key, values)| ((*key).to_owned(), list(values))).collect()),
            ..UserInfo::default()
        }
    }

    const AGENT: &str = "system:serviceaccount:spire:agent";

    #[test]
    fn a_review_says_whose_token_it_is() {
        let user = user(AGENT, &[(POD_NAME, &["agent-x"]), (POD_UID, &["7"])]);
        let bearer = Bearer::of(Some(&user)).unwrap();
        assert_eq!(bearer.account(), "spire:agent");
        assert_eq!((bearer.pod_name.as_str(), bearer.pod_uid.as_str()), ("agent-x", "7"));
    }

    #[test]
    fn a_review_that_names_no_pod_is_refused_in_spires_words() {
        let check = |user: Option<&UserInfo>, what: &str, why: &str| {
            let Unclear(said, cause) = Bearer::of(user).unwrap_err();
            assert!(said.contains(what) && cause == why, "{said}: {cause}");
        };
        check(None, "fail to parse username", "empty username");
        check(Some(&user("alice", &[])), "username", "unexpected username format: alice");
        check(Some(&user("system:serviceaccount::agent", &[])), "username", "missing namespace");
        check(Some(&user("system:serviceaccount:a:", &[])), "username", "missing service account name");
        check(Some(&user(AGENT, &[])), "fail to get pod name", "missing pod name");
        check(Some(&user(AGENT, &[(POD_NAME, &[])])), "pod name", "expected 1 name but got: 0");
        check(Some(&user(AGENT, &[(POD_NAME, &[""])])), "pod name", "pod name is empty");
        let name: (&str, &[&str]) = (POD_NAME, &["agent-x"]);
        check(Some(&user(AGENT, &[name])), "fail to get pod UID", "missing pod UID");
        check(Some(&user(AGENT, &[name, (POD_UID, &["1", "2"])])), "UID", "expected 1 UID but got: 2");
        check(Some(&user(AGENT, &[name, (POD_UID, &[""])])), "UID", "pod UID is empty");
    }

    #[test]
    fn a_reviewer_that_ignores_audiences_is_found_out() {
        let wanted = ["spire-server".to_owned()];
        let with = |audiences: &[&str]| TokenReviewStatus {
            audiences: Some(audiences.iter().map(|&each| each.to_owned()).collect()),
            ..TokenReviewStatus::default()
        };
        assert!(has_audience(&with(&["x", "spire-server"]), &wanted));
        assert!(!has_audience(&with(&["x"]), &wanted) && !has_audience(&with(&[]), &wanted));
        assert!(!has_audience(&TokenReviewStatus::default(), &wanted));
        assert!(has_audience(&TokenReviewStatus::default(), &[]));
    }
}
