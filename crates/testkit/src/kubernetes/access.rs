//! Who may talk to the API server: kubeconfigs, service accounts and their tokens.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::patience::until;
use super::{Created, Kubernetes};

/// What a token of a service account is good for.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenSettings<'a> {
    /// Empty: the API server's own.
    pub audiences: &'a [&'a str],
    /// The Pod that it is bound to.
    pub pod: Option<&'a Created>,
}

impl Kubernetes {
    /// The kubeconfig of the administrator.
    #[must_use]
    pub fn admin(&self) -> PathBuf {
        self.folder().join("admin.kubeconfig")
    }

    /// A kubeconfig of a user with a client certificate, in a group or none.
    #[must_use]
    pub fn kubeconfig_of_user(&self, user: &str, group: Option<&str>) -> PathBuf {
        let file = self.unique("user");
        let groups: Vec<&str> = group.into_iter().collect();
        let (certificate, key) = self.pki.client(&file, user, &groups);
        self.write_kubeconfig(&file, &json!({"client-certificate": certificate, "client-key": key}))
    }

    /// A kubeconfig of a service account with a token for an hour.
    #[must_use]
    pub fn kubeconfig_of_service_account(&self, namespace: &str, name: &str) -> PathBuf {
        let token = self.token(namespace, name, TokenSettings::default());
        self.write_kubeconfig(&self.unique("account"), &json!({"token": token}))
    }

    /// What a Pod of this service account finds in `/var/run/secrets/kubernetes.io/serviceaccount`: `token`, `ca.crt` and
    /// `namespace`.
    ///
    /// # Panics
    ///
    /// When there is no room for it.
    #[must_use]
    pub fn service_account_folder(&self, namespace: &str, name: &str) -> PathBuf {
        let folder = self.folder().join(self.unique("mounted"));
        fs::create_dir(&folder).expect("room for a folder");
        let token = self.token(namespace, name, TokenSettings::default());
        for (file, text) in [("token", token.as_str()), ("ca.crt", self.ca()), ("namespace", namespace)] {
            fs::write(folder.join(file), text).expect("room for a file");
        }
        folder
    }

    /// A token of a service account by TokenRequest. It lasts an hour; the API server allows no less than ten minutes.
    ///
    /// # Panics
    ///
    /// When the service account or the Pod is not there.
    #[must_use]
    pub fn token(&self, namespace: &str, name: &str, settings: TokenSettings<'_>) -> String {
        let mut spec = json!({"audiences": settings.audiences, "expirationSeconds": 3600});
        if let Some(pod) = settings.pod {
            spec["boundObjectRef"] =
                json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid});
        }
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let answer = self.insist("POST", &path, Some(&body)).ok();
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// Whether the service account `account` (`namespace:name`) may do `verb` to `what`: API group, resource or
    /// `resource/subresource`, and name.
    ///
    /// # Panics
    ///
    /// When the API server does not say.
    #[must_use]
    pub fn allows(&self, account: &str, verb: &str, what: (&str, &str, &str), namespace: &str) -> bool {
        let (group, resource, name) = what;
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": format!("system:serviceaccount:{account}"),
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": {
                    "verb": verb, "group": group, "resource": resource, "subresource": subresource,
                    "name": name, "namespace": namespace,
                },
            },
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        self.insist("POST", path, Some(&review)).ok()["status"]["allowed"] == true
    }

    /// Waits until it may: the API server takes up roles and bindings a moment after they are written.
    ///
    /// # Panics
    ///
    /// When it still may not.
    #[track_caller]
    pub fn wait_until_allowed(&self, account: &str, verb: &str, what: (&str, &str, &str), namespace: &str) {
        let refused = format!("{account} may not {verb} {what:?} in {namespace:?}");
        until(TAKEN_UP, || if self.allows(account, verb, what, namespace) { Ok(()) } else { Err(&refused) });
    }

    /// Writes `<name>.kubeconfig` for a `user` stanza.
    ///
    /// # Panics
    ///
    /// When there is no room for it.
    pub fn write_kubeconfig(&self, name: &str, user: &Value) -> PathBuf {
        self.write_kubeconfig_for(name, user, &self.url())
    }

    /// The same for another address, such as that of a proxy.
    ///
    /// # Panics
    ///
    /// When there is no room for it.
    pub fn write_kubeconfig_for(&self, name: &str, user: &Value, url: &str) -> PathBuf {
        let cluster = json!({"server": url, "certificate-authority": self.folder().join("ca.crt")});
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        let path = self.folder().join(format!("{name}.kubeconfig"));
        fs::write(&path, kubeconfig.to_string()).expect("room for a file");
        path
    }
}

/// Usually some milliseconds.
const TAKEN_UP: Duration = Duration::from_secs(120);
