//! `k8s_psat`: the projected service account token of the Pod that this agent runs in, as SPIRE's plugin has it.
//!
//! The kubelet replaces the file long before the token ends, so it is read at each attestation. While it is not there or
//! empty (a Pod that starts, a volume that is not mounted yet) the agent says so and tries again.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use vouchsafe_runtime::blocking;
use vouchsafe_types::secret::SecretText;
use zeroize::Zeroizing;

use super::attestor::EvidenceError;

/// Which cluster's token, and where it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct K8sPsat {
    /// `cluster`: the name that the server has for this cluster.
    pub cluster: String,
    /// `token_path`
    pub token_path: PathBuf,
}

#[derive(Serialize)]
struct Payload<'a> {
    cluster: &'a str,
    token: &'a str,
}

impl K8sPsat {
    /// Where the token is, unless configured.
    pub const DEFAULT_TOKEN_PATH: &'static str = "/var/run/secrets/tokens/spire-agent";

    /// Reads the token.
    pub(super) async fn load(&self) -> Result<Zeroizing<Vec<u8>>, EvidenceError> {
        let path = self.token_path.clone();
        let token = blocking::run(move || read(&path)).await;
        let token = token.map_err(|error| EvidenceError::Challenge(error.to_string()))??;
        let payload = serde_json::to_vec(&Payload { cluster: &self.cluster, token: &token });
        payload.map(Zeroizing::new).map_err(|error| EvidenceError::Challenge(error.to_string()))
    }
}

fn read(path: &Path) -> Result<SecretText, EvidenceError> {
    let failed = |source| EvidenceError::Read { key: KEY, path: path.into(), source };
    let unusable = |problem: String| EvidenceError::Unusable { key: KEY, path: path.into(), problem };
    let mut bytes = Zeroizing::new(Vec::with_capacity(USUAL_BYTES));
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_TOKEN_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_TOKEN_BYTES {
        return Err(unusable(format!("it is larger than {MAX_TOKEN_BYTES} bytes")));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| unusable("it is not text".to_owned()))?.trim_ascii();
    if text.is_empty() {
        return Err(unusable("it is empty".to_owned()));
    }
    Ok(text.into())
}

const KEY: &str = "token_path";
/// What a server of ours takes; a larger file is no token.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;
/// Room for a token of a real API server, so that no part of it is left behind by a buffer that grew.
const USUAL_BYTES: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    async fn load(path: PathBuf) -> Result<String, String> {
        let psat = K8sPsat { cluster: "demo".into(), token_path: path };
        let loaded = psat.load().await.map_err(|error| error.to_string())?;
        Ok(String::from_utf8(loaded.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_token_is_read_anew_at_each_attestation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "a.b.c").unwrap();
        assert_eq!(load(path.clone()).await.unwrap(), r#"{"cluster":"demo","token":"a.b.c"}"#);
        std::fs::write(&path, "d.e.f\n").unwrap();
        assert_eq!(load(path).await.unwrap(), r#"{"cluster":"demo","token":"d.e.f"}"#);
    }

    #[tokio::test]
    async fn a_token_that_cannot_be_read_is_named_by_its_file_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let check = async |text: Option<&[u8]>, says: &str| {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = load(path.clone()).await.unwrap_err();
            let named = error.contains("token_path") && error.contains(path.to_str().unwrap());
            assert!(named && error.contains(says) && !error.contains("secret"), "{error}");
        };
        check(None, "cannot read").await;
        check(Some(b""), "it is empty").await;
        check(Some(b" \n"), "it is empty").await;
        check(Some(b"secret\xff"), "it is not text").await;
        check(Some("secret".repeat(3_000).as_bytes()), "larger than").await;
    }
}
