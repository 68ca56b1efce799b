//! Reading and writing single objects.

use http::Request;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::core::params::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::request;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::{Api, Urgency};
use crate::cluster::FieldManager;
use crate::error::{Call, ClusterError};
use crate::kind::{Kind, Name};

impl Api {
    pub(crate) async fn fetch<K: Kind>(&self, name: &Name) -> Result<Option<K>, ClusterError> {
        let call = call::<K>("get", Some(name));
        let built = if K::metadata_api() {
            path::<K>(name).get_metadata(&name.name, &GetParams::default())
        } else {
            path::<K>(name).get(&name.name, &GetParams::default())
        };
        match self.json(&call, Urgency::Interactive, valid(&call, built)?).await {
            Ok(object) => Ok(Some(without_managed_fields(object))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn create<K: Kind>(&self, object: &K, urgency: Urgency) -> Result<K, ClusterError> {
        let name = Name::of(object);
        let call = call::<K>("create", Some(&name));
        let body = serialize(&call, &typed(&call, object)?)?;
        let built = path::<K>(&name).create(&PostParams::default(), body);
        self.json(&call, urgency, valid(&call, built)?).await.map(without_managed_fields)
    }

    pub(crate) async fn apply<K: Kind>(
        &self,
        name: &Name,
        fields: &Value,
        manager: &FieldManager,
    ) -> Result<K, ClusterError> {
        let call = call::<K>("apply", Some(name));
        let built = path::<K>(name).patch(&name.name, &params(manager), &Patch::Apply(fields));
        self.json(&call, Urgency::Interactive, valid(&call, built)?).await.map(without_managed_fields)
    }

    pub(crate) async fn patch<K: Kind>(
        &self,
        name: &Name,
        fields: &Value,
        manager: &str,
    ) -> Result<K, ClusterError> {
        let call = call::<K>("patch", Some(name));
        let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
        let built = path::<K>(name).patch(&name.name, &params, &Patch::Strategic(fields));
        self.json(&call, Urgency::Interactive, valid(&call, built)?).await.map(without_managed_fields)
    }

    /// Writes nothing, and asks for no leave to write, when the status is so already.
    pub(crate) async fn apply_status<K: Kind>(
        &self,
        name: &Name,
        status: Value,
        manager: &FieldManager,
    ) -> Result<(), ClusterError> {
        let get = call::<K>("get", Some(name));
        let request = valid(&get, path::<K>(name).get(&name.name, &GetParams::default()))?;
        match self.json::<Value>(&get, Urgency::Interactive, request).await {
            Ok(object) if object["status"] == status => return Ok(()),
            // Who may not read may still write.
            Err(error) if !error.is_forbidden() => return Err(error),
            _ => {}
        }
        let call = call::<K>("apply status", Some(name));
        let fields = partial::<K>(name, json!({ "status": status }));
        let built =
            path::<K>(name).patch_subresource("status", &name.name, &params(manager), &Patch::Apply(&fields));
        self.json::<IgnoredAny>(&call, Urgency::Interactive, valid(&call, built)?).await.map(drop)
    }

    /// Writes the whole object if it is still of the version that it says.
    pub(crate) async fn replace<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        let name = Name::of(object);
        let call = call::<K>("update", Some(&name));
        let body = serialize(&call, &typed(&call, object)?)?;
        let built = path::<K>(&name).replace(&name.name, &PostParams::default(), body);
        self.json(&call, Urgency::Interactive, valid(&call, built)?).await.map(without_managed_fields)
    }

    /// Merges `fields` into an object, for what can wait.
    pub(crate) async fn merge<K: Kind>(&self, name: &Name, fields: &Value) -> Result<(), ClusterError> {
        let call = call::<K>("patch", Some(name));
        let built = path::<K>(name).patch(&name.name, &PatchParams::default(), &Patch::Merge(fields));
        self.json::<IgnoredAny>(&call, Urgency::Background, valid(&call, built)?).await.map(drop)
    }

    pub(crate) async fn delete<K: Kind>(&self, name: &Name, uid: Option<&str>) -> Result<(), ClusterError> {
        let call = call::<K>("delete", Some(name));
        let preconditions = uid.map(|uid| Preconditions { uid: Some(uid.into()), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let built = path::<K>(name).delete(&name.name, &params);
        match self.json::<IgnoredAny>(&call, Urgency::Interactive, valid(&call, built)?).await {
            Err(error) if error.is_not_found() => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    pub(crate) async fn review_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<TokenReviewStatus, ClusterError> {
        let call = Call { verb: "create", kind: TokenReview::label().into(), name: None };
        let spec = TokenReviewSpec { token: Some(token.into()), audiences: Some(audiences.to_vec()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let body = serialize(&call, &review)?;
        let built = request::Request::new("/apis/authentication.k8s.io/v1/tokenreviews")
            .create(&PostParams::default(), body);
        let review: TokenReview = self.json(&call, Urgency::Interactive, valid(&call, built)?).await?;
        Ok(review.status.unwrap_or_default())
    }
}

/// What is being done, for errors.
pub(crate) fn call<K: Kind>(verb: &'static str, name: Option<&Name>) -> Call {
    Call { verb, kind: K::label().into(), name: name.map(|name| name.to_string().into()) }
}

/// The object as it is sent: with its kind, without what the API server sets.
pub(crate) fn typed<K: Kind>(call: &Call, object: &K) -> Result<Value, ClusterError> {
    let unserializable = |detail: String| ClusterError::Invalid { call: call.clone(), detail };
    let mut value = serde_json::to_value(object).map_err(|error| unserializable(error.to_string()))?;
    let Some(fields) = value.as_object_mut() else {
        return Err(unserializable("it is not an object".into()));
    };
    fields.insert("apiVersion".into(), K::api_version(&()).into());
    fields.insert("kind".into(), K::kind(&()).into());
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    Ok(value)
}

/// `fields` of the object `name`, as server-side apply takes them.
pub(crate) fn partial<K: Kind>(name: &Name, fields: Value) -> Value {
    let mut value = if fields.is_object() { fields } else { json!({}) };
    value["apiVersion"] = K::api_version(&()).into();
    value["kind"] = K::kind(&()).into();
    if !value["metadata"].is_object() {
        value["metadata"] = json!({});
    }
    value["metadata"]["name"] = name.name.as_str().into();
    if let Some(namespace) = &name.namespace {
        value["metadata"]["namespace"] = namespace.as_str().into();
    }
    value
}

fn without_managed_fields<K: Kind>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

fn path<K: Kind>(name: &Name) -> request::Request {
    request::Request::new(K::url_path(&(), name.namespace.as_deref()))
}

fn params(manager: &FieldManager) -> PatchParams {
    PatchParams { field_manager: Some(manager.name.clone()), force: manager.force, ..PatchParams::default() }
}

fn valid(
    call: &Call,
    built: Result<Request<Vec<u8>>, request::Error>,
) -> Result<Request<Vec<u8>>, ClusterError> {
    built.map_err(|error| ClusterError::Invalid { call: call.clone(), detail: error.to_string() })
}

fn serialize(call: &Call, value: &impl serde::Serialize) -> Result<Vec<u8>, ClusterError> {
    serde_json::to_vec(value)
        .map_err(|error| ClusterError::Invalid { call: call.clone(), detail: error.to_string() })
}
