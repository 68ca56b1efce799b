//! Agents that can attest again, by a certificate.

use vouchsafe_agent::node::attestor::NodeAttestor;
use vouchsafe_agent::node::x509pop::X509Pop;
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::x509::authority::{CaTemplate, self_signed_ca};
use vouchsafe_ca::x509::subject::Subject;
use vouchsafe_types::pem;

use super::support::*;

/// A key and a certificate of it, as files.
pub(crate) async fn certificate(dir: &Path) -> NodeAttestor {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let (private_key, certificate) = (dir.join("node.key"), dir.join("node.crt"));
    std::fs::write(&private_key, pem::encode("PRIVATE KEY", &key.pkcs8().unwrap())).unwrap();
    let trust_domain = vouchsafe_types::trust_domain::TrustDomain::parse("nodes.example").unwrap();
    let subject = Subject::ca_default();
    let template =
        CaTemplate { trust_domain: &trust_domain, subject: &subject, now: 0, not_after: i64::from(u32::MAX) };
    let der = self_signed_ca(&key, &template).await.unwrap();
    std::fs::write(&certificate, pem::encode("CERTIFICATE", &der)).unwrap();
    NodeAttestor::X509Pop(X509Pop::Files { private_key, certificate, intermediates: None })
}

pub(crate) async fn config(world: &World) -> Config {
    let address = world.server.as_ref().unwrap().address.to_string();
    let node_attestor = Some(certificate(world.dir.path()).await);
    Config { join_token: None, node_attestor, ..world.config(address) }
}

async fn started() -> (World, RunningAgent) {
    let world = World::new().await;
    world.fake.must_reattest.store(true, Ordering::SeqCst);
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start_with(config(&world).await).await;
    agent.serving().await;
    (world, agent)
}

fn count(counter: &std::sync::atomic::AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

#[tokio::test]
async fn an_agent_proves_that_it_has_the_key_of_its_certificate() {
    let (world, mut agent) = started().await;
    assert_eq!(count(&world.fake.attestations), 1);
    let id = agent.status.borrow().id.as_ref().unwrap().to_string();
    assert_eq!(id, "spiffe://example.org/spire/agent/x509pop/node");
    assert_eq!(ids(&agent.x509_once().await.unwrap()), ["spiffe://example.org/web"]);
    let metrics = agent.registry.render();
    assert!(
        metrics.contains("spire_agent_node_attestor_new_svid{attestor=\"x509pop\",status=\"OK\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("spire_agent_bootstrapped 1"), "{metrics}");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn it_attests_again_at_half_of_its_svids_life_instead_of_renewing() {
    let (world, agent) = started().await;
    world.hands.jump(2_000);
    let fake = Arc::clone(&world.fake);
    eventually("a second attestation", move || count(&fake.attestations) == 2).await;
    assert_eq!(count(&world.fake.renewals_asked), 0);
    let counted = || agent.registry.render().contains("spire_agent_node_attest{status=\"OK\"} 1");
    eventually("the metric", counted).await;
    agent.stop().await.unwrap();
}

/// Restarted too: the SVID that it finds has ended, and so has nothing that a workload holds.
#[tokio::test]
async fn an_agent_whose_svid_ended_while_no_server_was_there_attests_by_itself_when_one_is_back() {
    let (mut world, mut agent) = started().await;
    world.fake.x509_ttl.store(100 * 3600, Ordering::SeqCst);
    world.fake.put("web", &own_uid(), |_| ());
    eventually("a long-lived SVID", || count(&world.fake.issued) == 2).await;
    let before = count(&world.fake.attestations);
    let settings = config(&world).await;
    let address = world.stop_server().await;
    world.hands.jump(3 * 3600);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(agent.x509_once().await.unwrap().svids.len(), 1);
    agent.stop().await.unwrap();
    let mut agent = world.start_with(settings).await;
    assert_eq!(agent.status.borrow().phase, Phase::Serving, "at once");
    assert_eq!(agent.x509_once().await.unwrap().svids.len(), 1);
    world.fake.take_office();
    world.server = Some(world.fake.listen(Some(address)).await);
    let fake = Arc::clone(&world.fake);
    eventually("attestation", move || count(&fake.attestations) > before).await;
    world.fake.put("late", &own_uid(), |_| ());
    let start = Stopwatch::start();
    while agent.x509_once().await.unwrap().svids.len() < 2 {
        assert!(start.elapsed() < SOON, "no new identity");
        sleep(Duration::from_millis(20)).await;
    }
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_evicted_agent_attests_again_while_its_workloads_notice_nothing() {
    let (world, mut agent) = started().await;
    let mut stream = agent.x509().await;
    let before = next(&mut stream).await;
    for (times, reason) in
        [Reason::AgentNotAttested, Reason::AgentNotActive, Reason::AgentMustReattest].into_iter().enumerate()
    {
        world.fake.attesting_helps.store(true, Ordering::SeqCst);
        *world.fake.denial.lock().unwrap() = Some(reason);
        let fake = Arc::clone(&world.fake);
        eventually("another attestation", move || count(&fake.attestations) == times + 2).await;
        assert_eq!(agent.x509_once().await.unwrap(), before);
        let fake = Arc::clone(&world.fake);
        eventually("the server is told the version", move || count(&fake.posted) == times + 2).await;
    }
    world.fake.put("web", &own_uid(), |entry| entry.hint = "new".into());
    while next(&mut stream).await.svids[0].hint != "new" {}
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_denies_what_it_just_attested_is_not_attested_to_without_end() {
    let (world, agent) = started().await;
    *world.fake.denial.lock().unwrap() = Some(Reason::AgentNotActive);
    sleep(Duration::from_secs(6)).await;
    let asked = count(&world.fake.attestations_asked);
    assert!(asked <= 4, "{asked} attestations in six seconds");
    let fake = Arc::clone(&world.fake);
    eventually("another attestation", move || count(&fake.attestations_asked) >= 2).await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_evicted_agent_that_is_refused_ends_and_forgets_its_svid() {
    let (world, mut agent) = started().await;
    world.fake.refuse_pop.store(true, Ordering::SeqCst);
    *world.fake.denial.lock().unwrap() = Some(Reason::AgentNotAttested);
    let error = timeout(SOON * 3, agent.ended.join_next()).await.unwrap().unwrap().unwrap().unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("does not know this agent"), "{cause}");
    let data: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.dir.path().join("agent-data.json")).unwrap()).unwrap();
    assert_eq!(data["svid"], serde_json::json!([]));
}

#[tokio::test]
async fn an_agent_whose_certificate_is_not_known_ends_with_advice() {
    let world = World::new().await;
    world.fake.refuse_pop.store(true, Ordering::SeqCst);
    let mut agent = world.start_with(config(&world).await).await;
    let error = timeout(SOON, agent.ended.join_next()).await.unwrap().unwrap().unwrap().unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("certificate verification failed") && cause.contains("ca_bundle_path"), "{cause}");
}

#[tokio::test]
async fn a_certificate_that_is_put_right_is_found_without_a_restart() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let config = config(&world).await;
    let key = world.dir.path().join("node.key");
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, "nothing").unwrap();
    let mut agent = world.start_with(config).await;
    assert_eq!(agent.x509_once().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(count(&world.fake.attestations_asked), 0);
    std::fs::write(&key, good).unwrap();
    agent.serving().await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn the_data_directory_of_another_trust_domains_agent_is_refused() {
    let (world, agent) = started().await;
    let config = config(&world).await;
    agent.stop().await.unwrap();
    let trust_domain = vouchsafe_types::trust_domain::TrustDomain::parse("other.org").unwrap();
    let error = world.refused(Config { trust_domain, ..config }).await;
    assert!(error.contains("spiffe://example.org/spire/agent/x509pop/node"), "{error}");
    assert!(error.contains("other.org") && error.contains("data_dir"), "{error}");
}
