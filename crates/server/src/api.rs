//! All services of the server behind one authorization and one call counter.

use std::sync::Arc;

use tonic::service::Routes;
use tower::ServiceBuilder;
use tower_layer::Layer;
use vouchsafe_identity::own::SvidCell;
use vouchsafe_proto::spire::api::server::agent::v1::agent_server::AgentServer;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_server::BundleServer;
use vouchsafe_proto::spire::api::server::debug::v1::debug_server::DebugServer;
use vouchsafe_proto::spire::api::server::entry::v1::entry_server::EntryServer;
use vouchsafe_proto::spire::api::server::localauthority::v1::local_authority_server::LocalAuthorityServer;
use vouchsafe_proto::spire::api::server::logger::v1::logger_server::LoggerServer;
use vouchsafe_proto::spire::api::server::svid::v1::svid_server::SvidServer;
use vouchsafe_proto::spire::api::server::trustdomain::v1::trust_domain_server::TrustDomainServer;
use vouchsafe_proto::vouchsafe::server::v1::contacts_server::ContactsServer;
use vouchsafe_transport::rpc_metrics::{Counting, RpcMetrics};

use crate::agents::Agents;
use crate::authorities::{Control, JwtPublisher};
use crate::authorize::methods;
use crate::config::Config;
use crate::contacts::{AgentContacts, Contacts};
use crate::federation::Refresher;
use crate::guard::{Guard, Guarded};
use crate::issuer::Issuer;
use crate::limits::Limits;
use crate::model::ReadModel;
use crate::revisions::Revisions;
use crate::server::Deps;
use crate::services::agent::{AgentParts, AgentService, attestation_budgets};
use crate::services::attest::{JoinTokens, K8sPsat, NodeAttestor, NodeAttestors, X509Pop};
use crate::services::bundle::BundleService;
use crate::services::contacts::ContactsService;
use crate::services::debug::DebugService;
use crate::services::entry::EntryService;
use crate::services::local_authority::LocalAuthorityService;
use crate::services::logger::LoggerService;
use crate::services::revisions::{RevisionsParts, RevisionsService};
use crate::services::svid::SvidService;
use crate::services::trust_domain::TrustDomainService;

/// Everything that is served, counted and guarded.
pub(crate) type Api = Counting<Guarded<Routes>>;

/// What the services are built on.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) deps: &'a Deps,
    pub(crate) model: &'a Arc<ReadModel>,
    pub(crate) agents: &'a Arc<Agents>,
    pub(crate) issuer: &'a Arc<Issuer>,
    pub(crate) authorities: Control,
    pub(crate) publisher: JwtPublisher,
    pub(crate) own: &'a SvidCell,
    pub(crate) refresher: Refresher,
    pub(crate) revisions: Arc<Revisions>,
}

/// Largest message of an agent that is not attested yet. Evidence is a token or a chain of certificates.
const MAX_AGENT_MESSAGE: usize = 256 << 10;
/// Largest request for signatures: 500 CSRs with the largest keys.
const MAX_SVID_MESSAGE: usize = 2 << 20;

impl Parts<'_> {
    /// The services of the server, besides those in `health`.
    pub(crate) fn api(&self, health: Routes) -> Api {
        let contacts = self.contacts();
        let routes = health
            .add_service(ContactsServer::new(ContactsService(contacts.clone())))
            .add_service(AgentServer::new(self.agent()).max_decoding_message_size(MAX_AGENT_MESSAGE))
            .add_service(EntryServer::new(self.entry()).max_encoding_message_size(usize::MAX))
            .add_service(SvidServer::new(self.svid()).max_decoding_message_size(MAX_SVID_MESSAGE))
            .add_service(BundleServer::new(self.bundle()))
            .add_service(self.revisions())
            .add_service(TrustDomainServer::new(self.trust_domain()))
            .add_service(LocalAuthorityServer::new(LocalAuthorityService {
                authorities: self.authorities.clone(),
            }))
            .add_service(DebugServer::new(DebugService::new(
                self.config.trust_domain.clone(),
                self.deps.clock.clone(),
                self.model.clone(),
                self.own.clone(),
            )))
            .add_service(LoggerServer::new(LoggerService::new(self.deps.log_level.clone())))
            .prepare();
        let guard = Guard {
            contacts: contacts.contacts.clone(),
            agents: self.agents.clone(),
            clock: self.deps.clock.clone(),
            limits: Arc::new(Limits::new(self.config.admission.rate_limits, &self.deps.metrics)),
            audit: self.config.admission.audit_log,
        };
        let guarded = guard.layer(routes);
        let counted = RpcMetrics::new(self.deps.metrics.clone());
        counted.announce(methods());
        ServiceBuilder::new().layer(counted).service(guarded)
    }

    fn agent(&self) -> AgentService {
        AgentService(Arc::new(AgentParts {
            trust_domain: self.config.trust_domain.clone(),
            clock: self.deps.clock.clone(),
            model: self.model.clone(),
            attestors: self.attestors(),
            agents: self.agents.clone(),
            issuer: self.issuer.clone(),
            store: self.deps.store.clone(),
            again: self.config.admission.rate_limits.attestation.then(attestation_budgets),
        }))
    }

    fn attestors(&self) -> NodeAttestors {
        let mut attestors = Vec::new();
        if self.config.join_tokens {
            attestors.push(NodeAttestor::JoinTokens(JoinTokens {
                trust_domain: self.config.trust_domain.clone(),
                model: self.model.clone(),
            }));
        }
        if let Some(settings) = &self.config.admission.x509pop {
            attestors.push(NodeAttestor::X509Pop(X509Pop {
                settings: settings.clone(),
                trust_domain: self.config.trust_domain.clone(),
                clock: self.deps.clock.clone(),
                model: self.model.clone(),
            }));
        }
        if let Some(settings) = &self.config.admission.k8s_psat {
            let deps = vouchsafe_cluster::Deps {
                clock: self.deps.clock.clone(),
                entropy: self.deps.entropy.fork("k8s_psat"),
                metrics: self.deps.metrics.clone(),
            };
            let trust_domain = self.config.trust_domain.clone();
            attestors.push(NodeAttestor::K8sPsat(K8sPsat::new(trust_domain, settings, &deps)));
        }
        NodeAttestors(attestors)
    }

    fn entry(&self) -> EntryService {
        EntryService {
            trust_domain: self.config.trust_domain.clone(),
            clock: self.deps.clock.clone(),
            model: self.model.clone(),
            agents: self.agents.clone(),
            store: self.deps.store.clone(),
        }
    }

    fn svid(&self) -> SvidService {
        SvidService {
            trust_domain: self.config.trust_domain.clone(),
            clock: self.deps.clock.clone(),
            model: self.model.clone(),
            agents: self.agents.clone(),
            issuer: self.issuer.clone(),
        }
    }

    fn trust_domain(&self) -> TrustDomainService {
        TrustDomainService {
            trust_domain: self.config.trust_domain.clone(),
            model: self.model.clone(),
            store: self.deps.store.clone(),
            refresher: self.refresher.clone(),
        }
    }

    /// Who is in contact, and the gauges that say so.
    fn contacts(&self) -> Arc<AgentContacts> {
        let contacts = Arc::new(AgentContacts {
            contacts: Arc::new(Contacts::new(self.deps.clock.clone())),
            revisions: self.revisions.clone(),
            agents: self.agents.clone(),
            model: self.model.clone(),
            clock: self.deps.clock.clone(),
        });
        contacts.clone().show(&self.deps.metrics);
        self.deps.metrics.show_degraded(&self.deps.readiness);
        contacts
    }

    fn revisions(&self) -> RevisionsService {
        RevisionsService(Arc::new(RevisionsParts {
            trust_domain: self.config.trust_domain.clone(),
            clock: self.deps.clock.clone(),
            model: self.model.clone(),
            agents: self.agents.clone(),
            revisions: self.revisions.clone(),
        }))
    }

    fn bundle(&self) -> BundleService {
        BundleService {
            trust_domain: self.config.trust_domain.clone(),
            model: self.model.clone(),
            store: self.deps.store.clone(),
            publisher: self.publisher.clone(),
        }
    }
}
