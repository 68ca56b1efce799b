//! Who administers: creates, changes and deletes entries, rotates authorities, and at times bans an agent.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tonic::transport::Channel;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{BanAgentRequest, CreateJoinTokenRequest};
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest,
};
use vouchsafe_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use vouchsafe_proto::spire::api::server::localauthority::v1::{
    ActivateX509AuthorityRequest, PrepareX509AuthorityRequest,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_transport::connect::uds_channel_on;
use vouchsafe_types::bundle::Bundle;

use crate::facts::{EntryFact, EntryState};
use crate::parts::{ADMIN_SOCKET, token};
use crate::schedule::Dice;
use crate::world::World;

/// The operator of a world.
#[derive(Debug)]
pub struct Operator {
    world: Arc<World>,
    dice: Dice,
    created: usize,
    may_ban: bool,
}

impl Operator {
    /// Acts as the world's seed says.
    #[must_use]
    pub fn new(world: Arc<World>) -> Self {
        let mut dice = Dice(Entropy::from_seed(world.seed).fork("operator"));
        let may_ban = dice.chance(0.15);
        Self { world, dice, created: 0, may_ban }
    }

    /// Registers the agents and `entries` entries, while nothing goes wrong.
    ///
    /// # Errors
    ///
    /// What a server says.
    pub async fn set_up(&mut self, entries: usize) -> Result<(), String> {
        for agent in 0..self.world.agents.len() {
            let request = CreateJoinTokenRequest { ttl: 3600, token: token(agent), agent_id: None };
            let mut client = AgentClient::new(self.channel(0));
            client.create_join_token(request).await.map_err(|status| status.to_string())?;
        }
        for _ in 0..entries {
            self.create().await;
        }
        Ok(())
    }

    /// Acts until the end.
    pub async fn run(mut self) {
        loop {
            sleep(self.dice.seconds(3.0, 40.0)).await;
            match self.dice.below(10) {
                0..=3 => self.create().await,
                4 | 5 => self.update().await,
                6 | 7 => self.delete().await,
                8 => self.rotate().await,
                _ if self.may_ban => self.ban().await,
                _ => {}
            }
        }
    }

    async fn create(&mut self) {
        self.created += 1;
        let id = format!("entry-{}", self.created);
        let fact = EntryFact {
            agent: self.dice.below(self.world.agents.len()),
            path: format!("/workload/{}", self.created),
            state: EntryState::Asked,
        };
        let entry = self.entry(&id, &fact);
        self.world.facts().entries.insert(id.clone(), fact.clone());
        let mut client = EntryClient::new(self.some_channel());
        let request = BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
        let answer = bounded(client.batch_create_entry(request)).await.and_then(|answer| {
            verdict(answer.into_inner().results.into_iter().next().and_then(|result| result.status))
        });
        let what = format!("create {id} for agent-{}", fact.agent + 1);
        if self.told(&what, answer) {
            self.set_state(&id, EntryState::Present);
        }
    }

    async fn update(&mut self) {
        let Some((id, fact)) = self.some_entry() else { return };
        let mut entry = self.entry(&id, &fact);
        entry.dns_names = vec![format!("name-{}.example.org", self.dice.below(1000))];
        let mut client = EntryClient::new(self.some_channel());
        let mask = types::EntryMask { dns_names: true, ..types::EntryMask::default() };
        let request =
            BatchUpdateEntryRequest { entries: vec![entry], input_mask: Some(mask), output_mask: None };
        let answer = bounded(client.batch_update_entry(request)).await.and_then(|answer| {
            verdict(answer.into_inner().results.into_iter().next().and_then(|result| result.status))
        });
        self.told(&format!("update {id}"), answer);
    }

    async fn delete(&mut self) {
        let Some((id, _)) = self.some_entry() else { return };
        self.set_state(&id, EntryState::Leaving);
        let mut client = EntryClient::new(self.some_channel());
        let request = BatchDeleteEntryRequest { ids: vec![id.clone()] };
        let answer = bounded(client.batch_delete_entry(request)).await.and_then(|answer| {
            verdict(answer.into_inner().results.into_iter().next().and_then(|result| result.status))
        });
        if self.told(&format!("delete {id}"), answer) {
            self.set_state(&id, EntryState::Gone);
        }
    }

    /// As the manual says: prepare, wait until everybody has the new authority, activate.
    async fn rotate(&mut self) {
        let server = self.dice.below(self.world.servers.len());
        let mut client = LocalAuthorityClient::new(self.channel(server));
        let prepared = bounded(client.prepare_x509_authority(PrepareX509AuthorityRequest {})).await;
        let authority_id =
            prepared.as_ref().ok().and_then(|answer| answer.get_ref().prepared_authority.clone());
        let what = format!("prepare an authority of server-{}", server + 1);
        if !self.told(&what, prepared.map(drop)) {
            return;
        }
        sleep(Duration::from_secs(60)).await;
        let authority_id = authority_id.unwrap_or_default().authority_id;
        let request = ActivateX509AuthorityRequest { authority_id };
        let activated = bounded(client.activate_x509_authority(request)).await;
        self.told(&format!("activate it at server-{}", server + 1), activated.map(drop));
    }

    async fn ban(&mut self) {
        self.may_ban = false;
        let agent = self.dice.below(self.world.agents.len());
        self.world.facts().agents[agent].banned = Some((Instant::now(), None));
        let mut client = AgentClient::new(self.some_channel());
        let id = Some(self.world.agent_id(agent));
        let answer = bounded(client.ban_agent(BanAgentRequest { id })).await;
        if self.told(&format!("ban agent-{}", agent + 1), answer.map(drop)) {
            let mut facts = self.world.facts();
            let banned = &mut facts.agents[agent].banned;
            *banned = banned.map(|(asked, _)| (asked, Some(Instant::now())));
        }
    }

    fn entry(&self, id: &str, fact: &EntryFact) -> types::Entry {
        let trust_domain = self.world.trust_domain.as_str().to_owned();
        types::Entry {
            id: id.to_owned(),
            spiffe_id: Some(types::Spiffeid { trust_domain, path: fact.path.clone() }),
            parent_id: Some(self.world.agent_id(fact.agent)),
            selectors: vec![types::Selector {
                r#type: "unix".into(),
                value: format!("uid:{}", nix::unistd::geteuid()),
            }],
            ..types::Entry::default()
        }
    }

    fn some_entry(&mut self) -> Option<(String, EntryFact)> {
        let facts = self.world.facts();
        let present = facts.entries.iter().filter(|(_, fact)| fact.state == EntryState::Present);
        let all: Vec<_> = present.map(|(id, fact)| (id.clone(), fact.clone())).collect();
        drop(facts);
        // A few are left alone, so that there is always something to serve.
        (all.len() > 3).then(|| all[self.dice.below(all.len())].clone())
    }

    fn set_state(&self, id: &str, state: EntryState) {
        if let Some(fact) = self.world.facts().entries.get_mut(id) {
            fact.state = state;
        }
    }

    fn told<T>(&self, what: &str, answer: Result<T, Status>) -> bool {
        let how = answer.as_ref().err().map_or("OK".to_owned(), |status| format!("{:?}", status.code()));
        self.world.trace.line("operator", &format!("{what}: {how}"));
        if let Err(status) = &answer {
            self.world.trace.line("operator", status.message());
        }
        answer.is_ok()
    }

    fn some_channel(&mut self) -> Channel {
        let server = self.dice.below(self.world.servers.len());
        self.channel(server)
    }

    fn channel(&self, server: usize) -> Channel {
        let host = self.world.servers[server].host;
        uds_channel_on(&self.world.net.bystander(host), ADMIN_SOCKET.as_ref())
    }
}

/// The bundle as the first server has it.
///
/// # Errors
///
/// What it says.
pub async fn bundle(world: &World) -> Result<Bundle, String> {
    let channel = uds_channel_on(&world.net.bystander(world.servers[0].host), ADMIN_SOCKET.as_ref());
    let answer = bounded(BundleClient::new(channel).get_bundle(GetBundleRequest::default())).await;
    let answer = answer.map_err(|status| status.to_string())?;
    vouchsafe_proto::convert::bundle_from_proto(answer.get_ref()).map_err(|error| error.to_string())
}

async fn bounded<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout(PATIENCE, call).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("the operator gave up")))
}

fn verdict(status: Option<types::Status>) -> Result<(), Status> {
    let status = status.unwrap_or_default();
    match status.code {
        0 => Ok(()),
        code => Err(Status::new(code.into(), status.message)),
    }
}

/// How long the operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
