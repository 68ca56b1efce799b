//! Workloads: they fetch, keep streams open, ask for tokens, and look at what they get with their own eyes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_identity::verify::SvidVerifier;
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_proto::workload::{JwtsvidRequest, ValidateJwtsvidRequest, X509svidRequest, X509svidResponse};
use vouchsafe_runtime::entropy::{Entropy, spread};
use vouchsafe_transport::connect::uds_channel_on;
use vouchsafe_types::bundle::{Bundle, X509Authority};
use vouchsafe_types::certificate;
use vouchsafe_types::x509_svid::X509Svid;

use crate::facts::Handed;
use crate::invariants::{
    answers_from_what_it_holds, gives_nothing_new_to_the_banned, hands_out_what_is_valid,
    signs_what_can_be_verified, withdraws_nothing,
};
use crate::parts::AGENT_SOCKET;
use crate::recovery::stored;
use crate::schedule::Dice;
use crate::world::World;

/// The workloads on one agent's machine.
#[derive(Clone, Debug)]
pub struct Workload {
    world: Arc<World>,
    agent: usize,
    name: String,
    seen: Arc<Mutex<Seen>>,
}

/// What need not be looked at again.
#[derive(Debug, Default)]
struct Seen {
    /// Chains and bundles that were verified, and until when they are valid.
    verified: HashMap<u64, (i64, i64)>,
    /// The connection to this life of the agent.
    channel: Option<(u64, Channel)>,
}

impl Workload {
    /// Those of `agent`.
    #[must_use]
    pub fn new(world: Arc<World>, agent: usize) -> Self {
        let name = world.agents[agent].part.to_string();
        Self { world, agent, name, seen: Arc::default() }
    }

    /// One that fetches now and then, and whenever the agent has just started.
    pub async fn fetch(self) {
        let mut dice = Dice(Entropy::from_seed(self.world.seed).fork(&format!("fetch {}", self.agent)));
        let mut starts = self.world.agents[self.agent].starts();
        loop {
            // The agent's node lives as long as the world.
            drop(timeout(dice.seconds(0.5, 10.0), starts.changed()).await);
            self.look().await;
        }
    }

    /// One that keeps a stream open.
    pub async fn follow(self) {
        loop {
            sleep(Duration::from_millis(500)).await;
            let Some(life) = self.life() else { continue };
            let Ok(stream) = self.client().fetch_x509svid(asked(X509svidRequest {})).await else { continue };
            let mut stream = stream.into_inner();
            while let Ok(Some(update)) = stream.message().await {
                if self.life() == Some(life) {
                    self.judge(&update).await;
                }
            }
        }
    }

    /// One that asks for tokens, and has them validated.
    pub async fn tokens(self) {
        let mut dice = Dice(Entropy::from_seed(self.world.seed).fork(&format!("tokens {}", self.agent)));
        loop {
            sleep(dice.seconds(3.0, 30.0)).await;
            let held: Vec<_> = self.held().into_iter().collect();
            if let (Some(life), false) = (self.life(), held.is_empty()) {
                self.token(life, &held[dice.below(held.len())]).await;
            }
        }
    }

    /// Fetches once. What was served, if anything.
    pub async fn look(&self) -> Option<BTreeSet<String>> {
        let life = self.life()?;
        let (before, began) = (self.held(), Instant::now());
        let call = async {
            let mut client = self.client();
            let mut stream = client.fetch_x509svid(asked(X509svidRequest {})).await?.into_inner();
            stream.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))
        };
        let answer = timeout(PATIENCE, call).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the workload gave up")));
        if self.life() != Some(life) {
            return None;
        }
        let held: BTreeSet<_> = before.intersection(&self.held()).cloned().collect();
        let refused = answer.as_ref().err().map(|status| format!("{:?} {}", status.code(), status.message()));
        self.check(answers_from_what_it_holds(&self.name, &held, began.elapsed(), refused.as_deref()));
        if !held.is_empty() {
            self.world.facts().saw("ms of a fetch with something held", began.elapsed().as_millis());
        }
        Some(self.judge(answer.as_ref().ok()?).await)
    }

    /// Looks at an answer. The paths that are in it.
    async fn judge(&self, update: &X509svidResponse) -> BTreeSet<String> {
        let served: BTreeSet<_> = update.svids.iter().map(|svid| path_of(&svid.spiffe_id)).collect();
        self.check(withdraws_nothing(&self.name, &self.held(), &served));
        for svid in &update.svids {
            self.judge_one(&path_of(&svid.spiffe_id), &svid.x509_svid, &svid.bundle).await;
        }
        served
    }

    async fn judge_one(&self, path: &str, chain: &[u8], bundle: &[u8]) {
        let key = spread(&[chain, bundle].concat()).to_bits();
        let known = self.seen().verified.get(&key).copied();
        if known.is_some_and(|(from, until)| from <= self.wall() && self.wall() < until) {
            return;
        }
        let roots = self.roots(bundle);
        let verified = roots.and_then(|roots| self.verify(chain, &roots));
        if self.clock_is_steady() {
            let verdict = verified.as_ref().map(drop).map_err(Clone::clone);
            self.check(hands_out_what_is_valid(&self.name, path, verdict));
        }
        let Ok(svid) = verified else { return };
        let life = (svid.not_before, svid.not_after);
        self.seen().verified.insert(key, life);
        let handed = Handed { at: Instant::now(), serial: svid.serial, life };
        if self.world.facts().note(self.agent, path, handed) {
            self.world.trace.line(&self.name, &format!("serves {path} valid {life:?}"));
            self.check(gives_nothing_new_to_the_banned(&self.name, path, self.after_the_ban()));
            let of_record = stored(&self.world).await.map(|stored| stored.bundle);
            if let (Ok(Some(of_record)), true) = (of_record, self.clock_is_steady()) {
                let judgement = self.verify(chain, &of_record).map(drop);
                self.check(signs_what_can_be_verified(&self.name, path, judgement));
            }
        }
    }

    fn roots(&self, bundle: &[u8]) -> Result<Bundle, String> {
        let mut roots = Bundle::new(self.world.trust_domain.clone());
        for der in certificate::split(bundle).map_err(|error| error.to_string())? {
            roots.x509_authorities.push(X509Authority::parse(der).map_err(|error| error.to_string())?);
        }
        Ok(roots)
    }

    fn verify(&self, chain: &[u8], roots: &Bundle) -> Result<X509Svid, String> {
        let verifier = SvidVerifier::new(RootsCell::new(TrustRoots::of([roots])));
        let chain = certificate::split(chain).map_err(|error| error.to_string())?;
        let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(&**der)).collect();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(self.wall()).unwrap_or(0)));
        verifier.verify(&chain, now).map_err(|error| error.to_string())
    }

    async fn token(&self, life: u64, path: &str) {
        let held_until = self.world.facts().agents[self.agent].tokens.get(path).copied();
        let spiffe_id = format!("spiffe://{}{path}", self.world.trust_domain);
        let request = JwtsvidRequest { audience: vec!["audience".into()], spiffe_id };
        let (began, mut client) = (Instant::now(), self.client());
        let answer = timeout(PATIENCE, client.fetch_jwtsvid(asked(request))).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the workload gave up")));
        if self.life() != Some(life) || !self.held().contains(path) {
            return;
        }
        if held_until.is_some_and(|until| self.wall() + 2 < until) && self.clock_is_steady() {
            let refused =
                answer.as_ref().err().map(|status| format!("{:?} {}", status.code(), status.message()));
            let held = BTreeSet::from([format!("a token for {path}")]);
            self.check(answers_from_what_it_holds(&self.name, &held, began.elapsed(), refused.as_deref()));
        }
        let Ok(answer) = answer else { return };
        let Some(svid) = answer.into_inner().svids.into_iter().next() else { return };
        let request = ValidateJwtsvidRequest { audience: "audience".into(), svid: svid.svid };
        let validated = client.validate_jwtsvid(asked(request)).await;
        if self.life() != Some(life) || !self.clock_is_steady() {
            return;
        }
        let judgement = match &validated {
            Err(status) if status.code() == Code::InvalidArgument => Err(status.message().to_owned()),
            _ => Ok(()),
        };
        self.check(hands_out_what_is_valid(&self.name, &format!("a token for {path}"), judgement));
        if let Ok(validated) = validated {
            let claims = validated.into_inner().claims.unwrap_or_default();
            let until = claims.fields.get("exp").and_then(|value| match value.kind {
                Some(prost_types::value::Kind::NumberValue(until)) => Some(until as i64),
                _ => None,
            });
            self.world.facts().agents[self.agent].tokens.insert(path.to_owned(), until.unwrap_or(0));
        }
    }

    /// A client on a connection that lasts as long as the agent's process.
    fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        let life = self.world.agents[self.agent].life();
        let mut seen = self.seen();
        if let Some((of, channel)) = &seen.channel
            && *of == life
        {
            return SpiffeWorkloadApiClient::new(channel.clone());
        }
        let network = self.world.net.bystander(self.world.agents[self.agent].host);
        let channel = uds_channel_on(&network, AGENT_SOCKET.as_ref());
        seen.channel = Some((life, channel.clone()));
        SpiffeWorkloadApiClient::new(channel)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which process of the agent runs, if one does.
    fn life(&self) -> Option<u64> {
        let node = &self.world.agents[self.agent];
        node.up().map(|_| node.life())
    }

    fn wall(&self) -> i64 {
        self.world.agents[self.agent].clock.unix_now()
    }

    fn held(&self) -> BTreeSet<String> {
        self.world.facts().held(self.agent, self.wall())
    }

    /// Whether this machine's clock did not jump lately: after that, some things may be invalid until a server that has its
    /// database is within reach for a while.
    fn clock_is_steady(&self) -> bool {
        let healthy = self.world.stores_healthy_since();
        let facts = self.world.facts();
        let noted = &facts.agents[self.agent];
        let Some(changed) = facts.jumped.max(noted.clock_changed) else { return true };
        let Some(since) = healthy.map(|since| since.max(changed).max(noted.alone.unwrap_or(changed))) else {
            return false;
        };
        since.elapsed() > AFTER_JUMP
    }

    /// How many seconds ago every server knew of this agent's ban, if it was banned.
    fn after_the_ban(&self) -> Option<i64> {
        let (_, acknowledged) = self.world.facts().agents[self.agent].banned?;
        let since = acknowledged?.max(self.world.stores_healthy_since()?) + BAN_ARRIVES;
        let elapsed = Instant::now().checked_duration_since(since)?;
        Some(i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX))
    }

    fn check(&self, verdict: Result<(), crate::invariants::Violation>) {
        if let Err(violation) = verdict {
            self.world.trace.violated(violation);
        }
    }
}

fn asked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

fn path_of(spiffe_id: &str) -> String {
    spiffe_id.splitn(4, '/').nth(3).map_or_else(String::new, |path| format!("/{path}"))
}

/// How long a workload waits for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// After a jump of the clock everything is valid again within this time.
pub const AFTER_JUMP: Duration = Duration::from_secs(60);
/// After this time every server that can read its store knows of a ban.
const BAN_ARRIVES: Duration = Duration::from_secs(20);
