//! The one handle that the parts use.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewStatus};
use kube::core::PartialObjectMeta;
use serde_json::Value;

use crate::api::{Api, Place, Urgency};
use crate::error::{Call, ClusterError, OpenError};
use crate::events::{self, EventWriter, Events};
use crate::folder::{Folder, Problem};
use crate::kind::{Kind, Name};
use crate::lease::{self, Leadership, LeaseKeeper};
use crate::source::{Deps, Source};
use crate::watch::{self, Follower, Objects, Selection};

/// A cluster: its API server, or a folder that stands for one. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) backend: Backend,
    pub(crate) deps: Deps,
}

#[derive(Debug)]
pub(crate) enum Backend {
    Api(Box<Api>),
    Folder(Folder),
}

/// Who owns the fields that are applied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FieldManager {
    /// Stays the same across releases: the API server remembers fields by it.
    pub name: String,
    /// Takes fields over from other managers instead of failing with a conflict.
    pub force: bool,
}

impl FieldManager {
    /// A manager that takes fields over, as controllers do.
    pub fn forcing(name: impl Into<String>) -> Self {
        Self { name: name.into(), force: true }
    }
}

impl Cluster {
    /// Reads configuration and credentials; contacts nobody. Call it within a tokio runtime. A program that a kubeconfig names
    /// for credentials runs when the first call needs it.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: a retry helps only after somebody changed a file.
    pub fn open(source: &Source, deps: Deps) -> Result<Self, OpenError> {
        let backend = match source {
            Source::InCluster => Backend::Api(Box::new(Api::open(Place::InCluster)?)),
            Source::Kubeconfig(path) => Backend::Api(Box::new(Api::open(Place::Kubeconfig(path.clone()))?)),
            Source::Folder(path) => Backend::Folder(Folder::open(path, deps.clock.clone())?),
        };
        Ok(Self { shared: Arc::new(Shared { backend, deps }) })
    }

    /// The object as it is now, or `None` when there is none.
    ///
    /// # Errors
    ///
    /// [`ClusterError`].
    pub async fn fetch<K: Kind>(&self, name: &Name) -> Result<Option<K>, ClusterError> {
        match &self.shared.backend {
            Backend::Api(api) => api.fetch(name).await,
            Backend::Folder(folder) => folder.fetch(name).await,
        }
    }

    /// Creates an object that must not be there yet.
    ///
    /// # Errors
    ///
    /// [`ClusterError`]; a conflict when it is there.
    pub async fn create<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        match &self.shared.backend {
            Backend::Api(api) => api.create(object, Urgency::Interactive).await,
            Backend::Folder(folder) => folder.create(object).await,
        }
    }

    /// Makes the fields of `object` so, by server-side apply; creates it when it is not there. Fields that this manager
    /// applied before and that `object` lacks are removed; fields of others stay.
    ///
    /// # Errors
    ///
    /// [`ClusterError`]; a conflict when another manager owns a field and `manager` does not force.
    pub async fn apply<K: Kind>(&self, object: &K, manager: &FieldManager) -> Result<K, ClusterError> {
        let name = Name::of(object);
        let call = crate::api::call::<K>("apply", Some(&name));
        let fields = crate::api::typed(&call, object)?;
        match &self.shared.backend {
            Backend::Api(api) => api.apply(&name, &fields, manager).await,
            Backend::Folder(folder) => folder.apply(&name, fields).await,
        }
    }

    /// Makes only `fields` so, by server-side apply. The object's kind and name are filled in.
    ///
    /// # Errors
    ///
    /// [`ClusterError`]. Kinds whose required fields are not among `fields` give 422 when the object is not there.
    pub async fn apply_fields<K: Kind>(
        &self,
        name: &Name,
        fields: Value,
        manager: &FieldManager,
    ) -> Result<(), ClusterError> {
        let fields = crate::api::partial::<K>(name, fields);
        match &self.shared.backend {
            Backend::Api(api) => api.apply::<PartialObjectMeta<K>>(name, &fields, manager).await.map(drop),
            Backend::Folder(folder) => folder.apply::<PartialObjectMeta<K>>(name, fields).await.map(drop),
        }
    }

    /// Makes only `fields` so, by a strategic merge patch in the name of `manager`: list entries are found by their key (a
    /// webhook by its name). For single fields of objects that belong to somebody else: by server-side apply this manager would own
    /// the list entry too, and then the API server refuses an owner's apply that removes it (422, seen with 1.36).
    ///
    /// # Errors
    ///
    /// [`ClusterError`]; not found when there is no such object, 422 when there is no such list entry and its kind has
    /// required fields.
    pub async fn patch_fields<K: Kind>(
        &self,
        name: &Name,
        fields: Value,
        manager: &str,
    ) -> Result<(), ClusterError> {
        match &self.shared.backend {
            Backend::Api(api) => api.patch::<PartialObjectMeta<K>>(name, &fields, manager).await.map(drop),
            Backend::Folder(folder) => folder.patch::<K>(name, fields).await,
        }
    }

    /// Makes the object's `status` so. Writes nothing when it is so already.
    ///
    /// # Errors
    ///
    /// [`ClusterError`]; not found when there is no such object.
    pub async fn apply_status<K: Kind>(
        &self,
        name: &Name,
        status: Value,
        manager: &FieldManager,
    ) -> Result<(), ClusterError> {
        match &self.shared.backend {
            Backend::Api(api) => api.apply_status::<K>(name, status, manager).await,
            Backend::Folder(folder) => folder.apply_status::<K>(name, status).await,
        }
    }

    /// Deletes the object; it is no error when there is none. With `uid`, only that one.
    ///
    /// # Errors
    ///
    /// [`ClusterError`]; a conflict when there is another of the same name.
    pub async fn delete<K: Kind>(&self, name: &Name, uid: Option<&str>) -> Result<(), ClusterError> {
        match &self.shared.backend {
            Backend::Api(api) => api.delete::<K>(name, uid).await,
            Backend::Folder(folder) => folder.delete::<K>(name, uid).await,
        }
    }

    /// Asks the API server whose `token` is. A token that is not valid is an answer, not an error: look at
    /// `authenticated` and at `audiences`.
    ///
    /// # Errors
    ///
    /// [`ClusterError`]; always, where a folder stands for a cluster: it issues no tokens.
    pub async fn review_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<TokenReviewStatus, ClusterError> {
        match &self.shared.backend {
            Backend::Api(api) => api.review_token(token, audiences).await,
            Backend::Folder(_) => {
                let call = Call { verb: "create", kind: TokenReview::label().into(), name: None };
                let detail = "a folder of manifests issues no tokens".into();
                Err(ClusterError::Invalid { call, detail })
            }
        }
    }

    /// What is wrong with the manifests of the folder that stands for a cluster. Empty for an API server.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        match &self.shared.backend {
            Backend::Api(_) => Vec::new(),
            Backend::Folder(folder) => folder.problems(),
        }
    }

    /// Follows the objects of a kind. [`Objects`] has nothing until [`Follower::run`] runs as a task.
    pub fn watch<K: Kind>(&self, selection: Selection) -> (Objects<K>, Follower<K>) {
        watch::follow(self.clone(), selection)
    }

    /// Follows the metadata of the objects of a kind.
    pub fn watch_metadata<K: Kind>(
        &self,
        selection: Selection,
    ) -> (Objects<PartialObjectMeta<K>>, Follower<PartialObjectMeta<K>>) {
        self.watch(selection)
    }

    /// Where events about objects are told, as `component`. They are written by [`EventWriter::run`], a task.
    pub fn events(&self, component: &str) -> (Events, EventWriter) {
        events::open(self.clone(), component)
    }

    /// Takes part in the election for the lease `name`. [`LeaseKeeper::run`] is a task.
    pub fn lease(&self, name: Name, holder: String) -> (Leadership, LeaseKeeper) {
        lease::open(self.clone(), name, holder)
    }
}

#[cfg(test)]
pub(crate) mod tests;
