//! How the parts of the server are built and started, one function each.

use std::net::SocketAddr;
use std::sync::{Arc, Once};

use vouchsafe_ca::authority::Recipe;
use vouchsafe_ca::upstream::UpstreamAuthority;
use vouchsafe_identity::config::Expect;
use vouchsafe_identity::own::SvidCell;
use vouchsafe_lastgood::{SealKey, SealedFile};
use vouchsafe_runtime::supervisor::Supervisor;

use super::{Deps, StartError, infallible};
use crate::agents::Agents;
use crate::authorities::{Plan, Shared};
use crate::config::Config;
use crate::confirmed::Confirmed;
use crate::federation::{self, Poller, Refresher};
use crate::feed::Feed;
use crate::housekeeping::Housekeeping;
use crate::housekeeping::prune::AgentPruning;
use crate::issuer::Issuer;
use crate::model::ReadModel;
use crate::publish::{self, Publisher, Standing};
use crate::revisions::{Notifier, Revisions};

/// Whose certificates are looked at: members of the trust domain, and administrators of others by name.
pub(super) fn clients(config: &Config) -> Expect {
    let (own, admin_ids) = (config.trust_domain.clone(), config.admin_ids.clone());
    Expect::Matching(
        "a member of this server's trust domain, or one of admin_ids",
        Arc::new(move |id| id.is_member_of(&own) || admin_ids.contains(id)),
    )
}

/// What is done beside the calls: agent updates reach the database, and what ended is removed.
pub(super) fn start_chores(
    config: &Config,
    deps: &Deps,
    (model, agents, server_key): (&Arc<ReadModel>, &Arc<Agents>, &str),
    tasks: &mut Supervisor,
) {
    start_agent_pruning(config, deps, (model, agents, server_key), tasks);
    let (store, entropy) = (deps.store.clone(), deps.entropy.fork("agent write-back"));
    let agents = agents.clone();
    tasks.start("agent write-back", |cancel| {
        infallible(async move { agents.write_back(store, entropy, cancel).await })
    });
    let housekeeping = Housekeeping {
        store: deps.store.clone(),
        clock: deps.clock.clone(),
        metrics: deps.metrics.clone(),
        key: server_key.to_owned(),
    };
    tasks.start("housekeeping", |cancel| infallible(housekeeping.run(cancel)));
}

fn start_agent_pruning(
    config: &Config,
    deps: &Deps,
    (model, agents, server_key): (&Arc<ReadModel>, &Arc<Agents>, &str),
    tasks: &mut Supervisor,
) {
    let settings = config.admission.prune;
    let Some(expired_for) = settings.expired_for else { return };
    let pruning = AgentPruning {
        settings,
        expired_for,
        key: server_key.to_owned(),
        store: deps.store.clone(),
        model: model.clone(),
        agents: agents.clone(),
        clock: deps.clock.clone(),
        metrics: deps.metrics.clone(),
    };
    tasks.start("agent pruning", |cancel| infallible(pruning.run(cancel)));
}

pub(super) fn open_agents(
    config: &Config,
    deps: &Deps,
    model: &Arc<ReadModel>,
) -> Result<Agents, StartError> {
    let key = deps.keys.seal_key(JOURNAL);
    let file = key.map(|key| {
        let path = config.data_dir.join("agent-renewals.sealed");
        SealedFile::open(path, SealKey::new(*key), MAX_JOURNAL, JOURNAL)
    });
    Agents::new(model.clone(), deps.clock.clone(), config.admin_ids.clone(), file)
        .map_err(StartError::Journal)
}

pub(super) fn authority_shared(
    config: &Config,
    deps: &Deps,
    (model, issuer): (&Arc<ReadModel>, &Arc<Issuer>),
    upstream: Option<Arc<dyn UpstreamAuthority>>,
) -> Shared {
    let recipe =
        |key_type| Recipe { trust_domain: config.trust_domain.clone(), key_type, ttl: config.ca_ttl };
    Shared {
        plan: Plan {
            trust_domain: config.trust_domain.clone(),
            x509: recipe(config.ca_key_type),
            jwt: recipe(config.jwt_key_type),
            subject: config.ca_subject.clone(),
            has_jwt: !config.disable_jwt_svids,
        },
        clock: deps.clock.clone(),
        keys: deps.keys.clone(),
        store: deps.store.clone(),
        model: model.clone(),
        issuer: issuer.clone(),
        metrics: deps.metrics.clone(),
        upstream,
        own_journal: Arc::default(),
        jwt_stays_local: Once::new(),
    }
}

pub(super) fn start_feed(
    deps: &Deps,
    (model, agents, confirmed): (&Arc<ReadModel>, &Arc<Agents>, &Arc<Confirmed>),
    stale: Option<String>,
    tasks: &mut Supervisor,
) {
    let readiness = deps.readiness.token("catalog.datastore");
    // It serves, from whatever it has.
    readiness.mark();
    if let Some(why) = &stale {
        readiness.degrade(why);
    }
    let feed = Feed {
        store: deps.store.clone(),
        model: model.clone(),
        agents: agents.clone(),
        clock: deps.clock.clone(),
        confirmed: confirmed.clone(),
        confirmed_gauge: deps.metrics.gauge("vouchsafe_model_confirmed_seconds", &[]),
        stale: stale.is_some(),
        readiness,
        entropy: deps.entropy.fork("feed"),
    };
    tasks.start("change feed", |cancel| infallible(feed.run(cancel)));
}

pub(super) fn start_revisions(
    config: &Config,
    deps: &Deps,
    model: &Arc<ReadModel>,
    tasks: &mut Supervisor,
) -> Arc<Revisions> {
    let revisions = Arc::new(Revisions::new(&deps.metrics));
    let (trust_domain, clock) = (config.trust_domain.clone(), deps.clock.clone());
    let notifier = Notifier::new(revisions.clone(), model.clone(), trust_domain, clock);
    tasks.start("revisions", |cancel| infallible(notifier.run(cancel)));
    revisions
}

pub(super) async fn start_bundle_endpoint(
    config: &Config,
    deps: &Deps,
    (model, own): (&Arc<ReadModel>, &SvidCell),
    tasks: &mut Supervisor,
) -> Result<Option<SocketAddr>, StartError> {
    let Some(served) = &config.federation.bundle_endpoint else { return Ok(None) };
    let endpoint = federation::Endpoint {
        config: served,
        trust_domain: &config.trust_domain,
        model,
        own,
        key_exchange: config.admission.key_exchange,
        clock: &deps.clock,
    };
    let address = federation::start_endpoint(endpoint, tasks).await;
    address.map(Some).map_err(StartError::BundleEndpoint)
}

pub(super) fn start_federation(
    config: &Config,
    deps: &Deps,
    model: &Arc<ReadModel>,
    tasks: &mut Supervisor,
) -> Refresher {
    let (poller, refresher) = Poller::new(federation::Setup {
        trust_domain: config.trust_domain.clone(),
        config: config.federation.clone(),
        key_exchange: config.admission.key_exchange,
        model: model.clone(),
        store: deps.store.clone(),
        clock: deps.clock.clone(),
        metrics: deps.metrics.clone(),
    });
    tasks.start("federation", |cancel| infallible(poller.run(cancel)));
    refresher
}

/// The trust bundle in Kubernetes clusters.
pub(super) fn start_publishers(
    config: &Config,
    deps: &Deps,
    (model, confirmed, server_key): (&Arc<ReadModel>, &Arc<Confirmed>, &str),
    tasks: &mut Supervisor,
) {
    if config.publications.is_empty() {
        return;
    }
    let standing = Standing::new(deps.readiness.token("bundle in kubernetes"));
    for publication in &config.publications {
        let publisher = Publisher::new(publish::Setup {
            publication: publication.clone(),
            trust_domain: config.trust_domain.clone(),
            server_key: server_key.to_owned(),
            model: model.clone(),
            confirmed: confirmed.clone(),
            clock: deps.clock.clone(),
            entropy: deps.entropy.fork(&publication.cluster),
            metrics: deps.metrics.clone(),
            standing: standing.clone(),
        });
        tasks.start("bundle in kubernetes", |cancel| infallible(publisher.run(cancel)));
    }
}

const JOURNAL: &str = "agent-renewals";
/// About a hundred thousand renewals.
const MAX_JOURNAL: u64 = 32 << 20;
