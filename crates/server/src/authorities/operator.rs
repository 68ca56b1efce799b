//! What operators do to the authorities by hand.

use tracing::info;
use vouchsafe_ca::authority::slots::Summary;
use vouchsafe_ca::authority::{AuthorityKind, rotation, trust};

use super::Authorities;
use super::bundle::{distrust, held};
use super::control::{Command, Refusal};

use AuthorityKind::{Jwt, X509};

impl Authorities {
    /// Carries out one command, and shows everybody what became of it.
    pub(super) async fn execute(&mut self, command: Command) -> Result<Summary, Refusal> {
        let done = match command {
            Command::Prepare(kind) => self.prepare(kind).await,
            Command::Activate(kind, id) => self.activate(kind, &id).await,
            Command::Taint(kind, id) => self.taint(kind, &id).await,
            Command::Revoke(kind, id) => self.revoke(kind, &id).await,
            Command::TaintUpstream(id) => self.taint_upstream(&id).await,
            Command::RevokeUpstream(id) => self.revoke_upstream(&id).await,
        };
        self.show();
        done
    }

    async fn prepare(&mut self, kind: AuthorityKind) -> Result<Summary, Refusal> {
        match kind {
            X509 => {
                self.x509.active().ok_or(Refusal::Initializing)?;
                let effects = self.x509_effects();
                let made = rotation::prepare(&mut self.x509, &effects).await;
                made.map_err(|cause| Refusal::Rotate("failed to prepare X.509 authority", cause))?;
            }
            Jwt => {
                self.jwt.active().ok_or(Refusal::Initializing)?;
                let effects = self.jwt_effects();
                let made = rotation::prepare(&mut self.jwt, &effects).await;
                made.map_err(|cause| Refusal::Rotate("failed to prepare JWT authority", cause))?;
            }
        }
        self.overview(kind).prepared.ok_or(Refusal::Initializing)
    }

    async fn activate(&mut self, kind: AuthorityKind, id: &str) -> Result<Summary, Refusal> {
        const WHAT: &str = "failed to activate the authority";
        match kind {
            X509 => {
                let slot = self.x509.check_activation(id).map_err(Refusal::Slot)?;
                let effects = self.x509_effects();
                let done = rotation::activate(&mut self.x509, slot, &effects).await;
                done.map_err(|cause| Refusal::Rotate(WHAT, cause))?;
                self.cross(effects).await;
            }
            Jwt => {
                let slot = self.jwt.check_activation(id).map_err(Refusal::Slot)?;
                let effects = self.jwt_effects();
                let done = rotation::activate(&mut self.jwt, slot, &effects).await;
                done.map_err(|cause| Refusal::Rotate(WHAT, cause))?;
            }
        }
        self.overview(kind).active.ok_or(Refusal::Initializing)
    }

    async fn taint(&mut self, kind: AuthorityKind, id: &str) -> Result<Summary, Refusal> {
        let what = match kind {
            X509 if self.shared.upstream.is_some() => return Err(Refusal::HasUpstream("tainted")),
            X509 => "failed to taint X.509 authority",
            Jwt => "failed to taint JWT authority",
        };
        let summary = match kind {
            X509 => self.x509.check_taint(id),
            Jwt => self.jwt.check_taint(id),
        };
        let summary = summary.map_err(Refusal::Slot)?;
        distrust(&self.shared, what, trust::taint, (kind, id)).await?;
        match kind {
            X509 => {
                self.x509.note_tainted(id);
                self.own.lock().await.leave(id);
                info!(local_authority_id = id, "X.509 authority tainted successfully");
            }
            Jwt => {
                self.jwt.note_tainted(id);
                info!(local_authority_id = id, "JWT authority tainted successfully");
            }
        }
        Ok(summary)
    }

    async fn revoke(&mut self, kind: AuthorityKind, id: &str) -> Result<Summary, Refusal> {
        let what = match kind {
            X509 if self.shared.upstream.is_some() => return Err(Refusal::HasUpstream("revoked")),
            X509 => "failed to revoke X.509 authority",
            Jwt => "failed to revoke JWT authority",
        };
        let checked = match kind {
            X509 => self.x509.check_revocation(id, false),
            Jwt => self.jwt.check_revocation(id, held(&self.shared).jwt_authority(id).is_some()),
        };
        checked.map_err(|cause| Refusal::Invalid("invalid authority ID", cause))?;
        distrust(&self.shared, what, trust::revoke, (kind, id)).await?;
        match kind {
            X509 => {
                self.own.lock().await.drop_bridges();
                info!(local_authority_id = id, "X.509 authority revoked successfully");
            }
            Jwt => info!(local_authority_id = id, "JWT authority revoked successfully"),
        }
        Ok(Summary { id: id.to_owned(), ..Summary::default() })
    }

    async fn taint_upstream(&mut self, id: &str) -> Result<Summary, Refusal> {
        self.shared.upstream.as_ref().ok_or(Refusal::NoUpstream)?;
        let checked = self.x509.check_upstream(id);
        checked.map_err(|cause| Refusal::Invalid("provided subject key id is not valid", cause))?;
        distrust(&self.shared, "failed to taint upstream authority", trust::taint, (X509, id)).await?;
        self.x509.note_tainted(id);
        self.own.lock().await.leave(id);
        info!(subject_key_id = id, "X.509 upstream authority tainted successfully");
        Ok(Summary::default())
    }

    async fn revoke_upstream(&mut self, id: &str) -> Result<Summary, Refusal> {
        const WHAT: &str = "failed to revoke X.509 upstream authority";
        self.shared.upstream.as_ref().ok_or(Refusal::NoUpstream)?;
        let checked = self.x509.check_upstream(id);
        checked.map_err(|cause| Refusal::Invalid("invalid subject key ID", cause))?;
        distrust(&self.shared, WHAT, trust::revoke, (X509, id)).await?;
        info!(subject_key_id = id, "X.509 upstream authority successfully revoked");
        Ok(Summary::default())
    }
}
