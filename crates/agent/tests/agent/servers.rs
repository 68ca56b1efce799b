//! Several servers: which is used, and what happens when one hangs, goes away or has a new authority.

use super::support::*;

/// Several servers with keys of their own.
struct Several {
    world: World,
    fakes: Vec<Arc<Fake>>,
    listening: Vec<Option<Listening>>,
}

impl Several {
    async fn new(count: usize) -> Self {
        let mut world = World::new().await;
        world.fake.put("web", &own_uid(), |_| ());
        let mut fakes = vec![Arc::clone(&world.fake)];
        for _ in 1..count {
            let other = world.fake.beside().await;
            fakes.push(other);
        }
        let mut listening = vec![world.server.take()];
        for fake in &fakes[1..] {
            fake.share(&world.fake.bundle());
            listening.push(Some(fake.listen(None).await));
        }
        Self { world, fakes, listening }
    }

    fn address(&self, at: usize) -> String {
        self.listening[at].as_ref().unwrap().address.to_string()
    }

    fn config(&self) -> Config {
        let mut config = self.world.config(self.address(0));
        config.server_addresses = (1..self.fakes.len()).map(|at| self.address(at)).collect();
        config
    }

    /// Puts an entry on every server that is there.
    fn put(&self, id: &str) {
        self.fakes.iter().for_each(|fake| fake.put(id, &own_uid(), |_| ()));
    }

    /// Which of them the agent uses.
    fn in_use(&self, agent: &RunningAgent) -> usize {
        let text = agent.registry.render();
        let at = (0..self.fakes.len()).find(|at| {
            let Some(listening) = &self.listening[*at] else { return false };
            text.contains(&format!("vouchsafe_server_in_use{{server=\"{}\"}} 1", listening.address))
        });
        at.unwrap_or_else(|| panic!("no server is in use\n{text}"))
    }

    async fn stop(&mut self, at: usize) -> std::net::SocketAddr {
        let listening = self.listening[at].take().unwrap();
        let address = listening.address;
        listening.stop().await;
        address
    }
}

fn score(agent: &RunningAgent, server: &str) -> f64 {
    let text = agent.registry.render();
    let line = format!("spire_agent_vouchsafe_server_score{{server=\"{server}\"}} ");
    let value = text.lines().find_map(|text| text.strip_prefix(line.as_str()));
    value.unwrap_or_else(|| panic!("no score of {server}\n{text}")).parse().unwrap()
}

async fn has(agent: &mut RunningAgent, id: &str) {
    let id = format!("spiffe://example.org/{id}");
    let start = Stopwatch::start();
    while !agent.x509_once().await.is_ok_and(|response| ids(&response).contains(&id.as_str())) {
        assert!(start.elapsed() < SOON, "no identity {id}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_agent_whose_server_goes_away_uses_another_one_at_once() {
    let mut several = Several::new(3).await;
    let mut agent = several.world.start_with(several.config()).await;
    agent.serving().await;
    let first = several.in_use(&agent);
    let gone = several.address(first);
    several.stop(first).await;
    let start = Stopwatch::start();
    several.put("late");
    has(&mut agent, "late").await;
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_ne!(several.in_use(&agent), first);
    assert!(score(&agent, &gone) < 0.6, "{}", score(&agent, &gone));
    let text = agent.registry.render();
    assert!(text.contains("vouchsafe_repairs{what=\"takeover\"} 1"), "{text}");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_first_token_comes_from_another_server_while_the_one_in_use_hangs() {
    let several = Several::new(3).await;
    // Nothing but the token is asked for meanwhile.
    let config = Config { sync_interval: Duration::from_secs(3600), ..several.config() };
    let mut agent = several.world.start_with(config).await;
    agent.serving().await;
    let held = agent.jwt(&["held"]).await.unwrap();
    let first = several.in_use(&agent);
    several.fakes[first].hang.store(true, Ordering::SeqCst);
    let start = Stopwatch::start();
    agent.jwt(&["new"]).await.unwrap();
    let (wall, took) = (start.wall(), start.elapsed());
    assert!(wall >= Duration::from_millis(1_900) && took < Duration::from_secs(8), "{wall:?}, {took:?}");
    let start = Stopwatch::start();
    agent.jwt(&["newer"]).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "the one that hangs was asked again: {:?}",
        start.elapsed()
    );
    assert_eq!(agent.jwt(&["held"]).await.unwrap(), held);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_authority_that_only_the_other_servers_know_is_learned_from_them() {
    let mut several = Several::new(2).await;
    let config = Config { sync_interval: Duration::from_secs(3600), ..several.config() };
    let mut agent = several.world.start_with(config).await;
    agent.serving().await;
    agent.x509_once().await.unwrap();
    let used = several.in_use(&agent);
    let other = 1 - used;
    // Nothing is under way when it goes: the next call is the test's.
    eventually("the end of all calls", || several.fakes[used].posted.load(Ordering::SeqCst) == 1).await;
    // The server in use comes back with a key that it never had while the agent was connected.
    let address = several.stop(used).await;
    let closed = format!("vouchsafe_server_connected_since_seconds{{server=\"{address}\"}} 0\n");
    eventually("the end of the connection", || agent.registry.render().contains(&closed)).await;
    let before = several.fakes[other].bundle();
    several.fakes[used].replace_authorities().await;
    let new = several.fakes[used].bundle();
    several.fakes[other].change_bundle(|bundle| {
        bundle.append(new.x509_authorities, new.jwt_authorities);
    });
    let bundle = several.fakes[other].bundle();
    assert!(bundle.sequence_number > before.sequence_number);
    several.fakes[used].share(&bundle);
    several.listening[used] = Some(several.fakes[used].listen(Some(address)).await);
    // A call finds out, and is answered by the other one.
    agent.jwt(&["a"]).await.unwrap();
    let status = agent.status.clone();
    let fine = format!("vouchsafe_server_requests{{server=\"{address}\",status=\"OK\"}}");
    let start = Stopwatch::start();
    loop {
        let text = agent.registry.render();
        if score(&agent, &address.to_string()) > 0.8 && text.contains(&fine) {
            break;
        }
        assert!(start.elapsed() < SOON, "the new authority is not believed\n{text}");
        sleep(Duration::from_millis(20)).await;
    }
    several.stop(other).await;
    let start = Stopwatch::start();
    while agent.jwt(&["b"]).await.is_err() {
        assert!(start.elapsed() < SOON, "no token from the server with the new authority");
    }
    assert_eq!(status.borrow().phase, Phase::Serving);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_asks_to_wait_is_not_left() {
    let several = Several::new(2).await;
    let mut agent = several.world.start_with(several.config()).await;
    agent.serving().await;
    let used = several.in_use(&agent);
    let refused = Status::resource_exhausted("later");
    several.fakes[used].jwt_refusal.lock().unwrap().replace(refused);
    let error = timeout(Duration::from_millis(500), agent.jwt(&["a"])).await;
    assert!(error.is_err() || error.unwrap().is_err());
    assert_eq!(several.in_use(&agent), used);
    let asked = several.fakes[1 - used].jwts_asked.lock().unwrap().len();
    assert_eq!(asked, 0, "the other one was asked");
    agent.stop().await.unwrap();
}

/// Each loop waits for up to half a minute; the first that reaches a server wakes the others.
#[tokio::test]
async fn the_end_of_an_outage_is_found_by_one_and_known_to_all() {
    let mut several = Several::new(1).await;
    several.world.server = several.listening[0].take();
    let mut agent = several.world.start().await;
    agent.serving().await;
    agent.jwt(&["a"]).await.unwrap();
    let address = several.world.stop_server().await;
    timeout(SOON, agent.status.wait_for(|status| status.sync_error.is_some())).await.unwrap().unwrap();
    sleep(Duration::from_secs(3)).await;
    several.world.server = Some(several.world.fake.listen(Some(address)).await);
    // A workload's request is a call too.
    agent.jwt(&["b"]).await.unwrap();
    let back = Stopwatch::start();
    timeout(SOON, agent.status.wait_for(|status| status.sync_error.is_none())).await.unwrap().unwrap();
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_agent_whose_svid_ends_during_an_outage_serves_on_and_is_admitted_when_it_is_over() {
    let mut several = Several::new(1).await;
    several.world.server = several.listening[0].take();
    let world = &mut several.world;
    world.fake.x509_ttl.store(100 * 3600, Ordering::SeqCst);
    let mut agent = world.start().await;
    agent.serving().await;
    let held = agent.x509_once().await.unwrap();
    let address = world.stop_server().await;
    // The agent's own SVID lives for an hour.
    world.hands.jump(3 * 3600);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(agent.x509_once().await.unwrap(), held);
    assert!(agent.ended.try_join_next().is_none(), "the agent ended");
    world.fake.put("late", &own_uid(), |_| ());
    // The server has renewed its own SVID meanwhile.
    world.fake.take_office();
    world.server = Some(world.fake.listen(Some(address)).await);
    has(&mut agent, "late").await;
    assert!(world.fake.renewals.load(Ordering::SeqCst) >= 1);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_shows_an_older_state_is_left_for_one_that_does_not() {
    let several = Several::new(2).await;
    several.put("web");
    let config = Config { sync_interval: Duration::from_millis(100), ..several.config() };
    let mut agent = several.world.start_with(config).await;
    agent.serving().await;
    let first = several.in_use(&agent);
    several.fakes[first].entries.lock().unwrap().get_mut("web").unwrap().revision_number -= 1;
    several.fakes[1 - first].put("new", &own_uid(), |_| ());
    has(&mut agent, "new").await;
    assert_eq!(several.in_use(&agent), 1 - first);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_sign_and_answers_everything_else_is_left_for_one_that_can() {
    let refuse = |fake: &Fake, status: Status| *fake.x509_refusal.lock().unwrap() = Some(status);
    let ways: [&dyn Fn(&Fake); 3] = [
        &|fake| refuse(fake, Status::unavailable("the key manager is away")),
        &|fake| refuse(fake, Status::internal("the key manager is broken")),
        &|fake| fake.cannot_sign.store(true, Ordering::SeqCst),
    ];
    for fail in ways {
        let several = Several::new(2).await;
        let config = Config { sync_interval: Duration::from_millis(100), ..several.config() };
        let mut agent = several.world.start_with(config).await;
        agent.serving().await;
        agent.x509_once().await.unwrap();
        let first = several.in_use(&agent);
        fail(&several.fakes[first]);
        let start = Stopwatch::start();
        several.put("late");
        has(&mut agent, "late").await;
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        // The same call found the other one.
        let text = agent.registry.render();
        assert!(text.contains("vouchsafe_retries{what=\"issue\"} 0\n"), "{text}");
        eventually("the move", || several.in_use(&agent) == 1 - first).await;
        // What else it answers, probes above all, does not bring the agent back.
        several.put("later");
        has(&mut agent, "later").await;
        assert_eq!(several.in_use(&agent), 1 - first);
        agent.stop().await.unwrap();
    }
}

#[tokio::test]
async fn an_entry_that_no_server_can_sign_is_said_to_be_so_and_the_others_are_issued() {
    let several = Several::new(2).await;
    several.fakes.iter().for_each(|fake| fake.cannot_sign.store(true, Ordering::SeqCst));
    let mut agent = several.world.start_with(several.config()).await;
    agent.serving().await;
    eventually("the reason", || agent.registry.render().contains("vouchsafe_entries{state=\"failing\"} 1\n"))
        .await;
    // The server answered, and is not thought to be away.
    let text = agent.registry.render();
    assert!(text.contains("vouchsafe_retries{what=\"issue\"} 0\n"), "{text}");
    several.fakes.iter().for_each(|fake| fake.cannot_sign.store(false, Ordering::SeqCst));
    has(&mut agent, "web").await;
    agent.stop().await.unwrap();
}

/// Of two renewals the last one counts, and a server that is late may still carry its own out.
#[tokio::test]
async fn a_renewal_that_is_answered_late_is_not_asked_of_another_server() {
    let several = Several::new(2).await;
    let mut agent = several.world.start_with(several.config()).await;
    agent.serving().await;
    let first = several.in_use(&agent);
    let (one, other) = (&several.fakes[first], &several.fakes[1 - first]);
    let before = agent.status.borrow().svid_expires_at;
    one.answer_renewals.send_replace(false);
    several.world.hands.jump(2_000);
    eventually("a renewal", || one.renewals.load(Ordering::SeqCst) == 1).await;
    // Any other call goes to the next server after a while; one that began later has.
    one.hand_out_jwts.send_replace(false);
    agent.jwt(&["a"]).await.unwrap();
    one.answer_renewals.send_replace(true);
    let renewed = agent.status.wait_for(|status| status.svid_expires_at != before);
    timeout(SOON, renewed).await.unwrap().unwrap();
    assert_eq!(one.renewals_asked.load(Ordering::SeqCst), 1);
    assert_eq!(other.renewals_asked.load(Ordering::SeqCst), 0);
    agent.stop().await.unwrap();
}
