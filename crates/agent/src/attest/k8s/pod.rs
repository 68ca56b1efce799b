//! What is kept of a Pod, and the selectors that follow from it. Pure.
//!
//! A Pod in the kubelet's list is kilobytes of specification, of which the selectors need little. That little is kept;
//! what many Pods have in common (namespace, node, images, labels) is kept once.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use vouchsafe_types::selector::Selector;

/// A Pod that is not completed.
#[derive(Debug, Eq, PartialEq)]
pub struct Pod {
    /// Its UID, with dashes.
    pub uid: Arc<str>,
    name: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
    node: Arc<str>,
    labels: Box<[(Arc<str>, Arc<str>)]>,
    owners: Box<[Owner]>,
    containers: Box<[Container]>,
    init_containers: Box<[Container]>,
}

#[derive(Debug, Eq, PartialEq)]
struct Owner {
    kind: Arc<str>,
    name: Arc<str>,
    uid: Arc<str>,
}

/// One container of a Pod, as its status has it.
#[derive(Debug, Eq, PartialEq)]
struct Container {
    id: Option<ContainerId>,
    name: Arc<str>,
    image: Arc<str>,
    image_id: Arc<str>,
}

/// 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ContainerId([u8; 32]);

impl ContainerId {
    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// Reads `containerd://<id>`, as the status of a container has it. The scheme is the runtime's name.
    fn of_status(url: &str) -> Option<Self> {
        let (_, after) = url.split_once("://")?;
        Self::parse(after.split('/').next()?)
    }
}

impl std::fmt::Display for ContainerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Pod {
    /// The containers that have an ID.
    pub fn container_ids(&self) -> impl Iterator<Item = ContainerId> {
        self.all_containers().filter_map(|container| container.id)
    }

    /// Whether one of its containers is this one.
    #[must_use]
    pub fn has(&self, id: ContainerId) -> bool {
        self.container_ids().any(|own| own == id)
    }

    /// The image ID of its container `id`, as the runtime resolved it: `repository@sha256:…`.
    #[must_use]
    pub fn image_id(&self, id: ContainerId) -> Option<&str> {
        self.all_containers().find(|container| container.id == Some(id)).map(|container| &*container.image_id)
    }

    /// The namespace that it is in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What follows from the Pod, and from the container `id` of it if one is given. The forms are SPIRE's; what is too
    /// long for a selector can be in no entry and is left out.
    #[must_use]
    pub fn selectors(&self, id: Option<ContainerId>) -> Vec<Selector> {
        let mut values = vec![
            format!("sa:{}", self.service_account),
            format!("ns:{}", self.namespace),
            format!("node-name:{}", self.node),
            format!("pod-uid:{}", self.uid),
            format!("pod-name:{}", self.name),
            format!("pod-image-count:{}", self.containers.len()),
            format!("pod-init-image-count:{}", self.init_containers.len()),
        ];
        let mut images = |key: &str, containers: &[Container]| {
            for container in containers {
                for image in [&container.image_id, &container.image] {
                    values.push(format!("{key}:{image}"));
                }
            }
        };
        images("pod-image", &self.containers);
        images("pod-init-image", &self.init_containers);
        let own = id.and_then(|id| self.all_containers().find(|container| container.id == Some(id)));
        if let Some(own) = own {
            images("container-image", std::slice::from_ref(own));
        }
        values.extend(own.map(|own| format!("container-name:{}", own.name)));
        values.extend(self.labels.iter().map(|(key, value)| format!("pod-label:{key}:{value}")));
        for owner in &self.owners {
            values.push(format!("pod-owner:{}:{}", owner.kind, owner.name));
            values.push(format!("pod-owner-uid:{}:{}", owner.kind, owner.uid));
        }
        let mut seen = HashSet::new();
        let once = values.iter().filter(|value| seen.insert(value.as_str()));
        once.filter_map(|value| Selector::new(super::KIND, value).ok()).collect()
    }

    fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().chain(&self.init_containers)
    }
}

/// A Pod as the kubelet sends it, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Listed {
    metadata: Option<Metadata>,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    uid: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<ListedOwner>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ListedOwner {
    kind: Option<String>,
    name: Option<String>,
    uid: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_account_name: Option<String>,
    node_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: Option<String>,
    container_statuses: Option<Vec<ListedContainer>>,
    init_container_statuses: Option<Vec<ListedContainer>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListedContainer {
    #[serde(rename = "containerID")]
    container_id: Option<String>,
    name: Option<String>,
    image: Option<String>,
    #[serde(rename = "imageID")]
    image_id: Option<String>,
}

impl Listed {
    /// Whether all of its containers have ended for good: none of its processes can ask for anything.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        let phase = self.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// What is kept of it; `None` without a UID.
    #[must_use]
    pub fn keep(self, strings: &mut Strings) -> Option<Pod> {
        let (metadata, spec) = (self.metadata.unwrap_or_default(), self.spec.unwrap_or_default());
        let status = self.status.unwrap_or_default();
        let uid = metadata.uid.filter(|uid| !uid.is_empty())?;
        let mut text = |text: Option<String>| strings.of(&text.unwrap_or_default());
        let mut containers = |listed: Option<Vec<ListedContainer>>| {
            let kept = listed.into_iter().flatten().map(|listed| Container {
                id: listed.container_id.as_deref().and_then(ContainerId::of_status),
                name: text(listed.name),
                image: text(listed.image),
                image_id: text(listed.image_id),
            });
            kept.collect()
        };
        let (containers, init_containers) =
            (containers(status.container_statuses), containers(status.init_container_statuses));
        let owners = metadata.owner_references.into_iter().flatten();
        let owners = owners
            .map(|owner| Owner { kind: text(owner.kind), name: text(owner.name), uid: text(owner.uid) })
            .collect();
        let labels = metadata.labels.into_iter().flatten();
        let labels = labels.map(|(key, value)| (text(Some(key)), text(Some(value)))).collect();
        Some(Pod {
            uid: uid.into(),
            name: metadata.name.unwrap_or_default().into(),
            namespace: text(metadata.namespace),
            service_account: text(spec.service_account_name),
            node: text(spec.node_name),
            labels,
            owners,
            containers,
            init_containers,
        })
    }
}

/// Texts that are kept once. Lives as long as one list is read.
#[derive(Debug, Default)]
pub struct Strings(HashSet<Arc<str>>);

impl Strings {
    fn of(&mut self, text: &str) -> Arc<str> {
        if let Some(kept) = self.0.get(text) {
            return Arc::clone(kept);
        }
        let kept: Arc<str> = text.into();
        self.0.insert(Arc::clone(&kept));
        kept
    }
}

#[cfg(test)]
mod tests;
