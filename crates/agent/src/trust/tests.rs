use super::*;
use std::time::{Duration, SystemTime};
use vouchsafe_ca::key_manager::Memory;
use vouchsafe_identity::own::SvidCell;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Registry;

fn trust(bootstrap: Bootstrap, rebootstrap: RebootstrapMode, directory: &std::path::Path) -> Trust {
    let clock = Clock::derived(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000));
    let roots = RootsCell::new(TrustRoots::new());
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let address = ("localhost:1".to_owned(), trust_domain.clone());
    let cells = (SvidCell::empty(), roots.clone());
    let keys = Arc::new(Memory::default());
    let config = Config {
        bootstrap,
        rebootstrap: Rebootstrap { mode: rebootstrap, delay: Duration::from_secs(600) },
        ..Config::new(trust_domain, address.0.clone(), directory.into(), keys)
    };
    let parts = Parts {
        roots,
        identities: Arc::default(),
        data_dir: Arc::new(DataDir::open(directory).unwrap()),
        client: Arc::new(ServerClient::new(address, cells, clock.clone(), Entropy::from_seed(1))),
        clock,
        metrics: Metrics::new(Registry::new("spire_agent", &[])),
    };
    Trust::new(&config, parts)
}

fn hold(trust: &Trust, bundle: Bundle) {
    trust.identities.edit(|snapshot| {
        snapshot.bundles = Some(Arc::new(Bundles::of(bundle)));
        true
    });
}

fn empty() -> Bundle {
    Bundle::new(TrustDomain::parse("example.org").unwrap())
}

#[tokio::test]
async fn whoever_answers_is_believed_only_as_long_as_no_bundle_was_ever_held() {
    let directory = tempfile::tempdir().unwrap();
    let trust = trust(Bootstrap::Insecure, RebootstrapMode::Auto, directory.path());
    assert_eq!(trust.basis().await.unwrap(), Basis::Nothing);
    // One without an authority that is valid now.
    hold(&trust, empty());
    assert_eq!(trust.basis().await.unwrap(), Basis::Held);
}

#[tokio::test(start_paused = true)]
async fn the_configured_bundle_counts_again_when_the_server_was_somebody_else_for_the_whole_delay() {
    let directory = tempfile::tempdir().unwrap();
    let due = |mode| trust(Bootstrap::Bundle(empty()), mode, directory.path());
    let trust = due(RebootstrapMode::Auto);
    trust.client.set_server_is_unknown(true);
    trust.contact.doubt();
    tokio::time::advance(Duration::from_secs(599)).await;
    trust.contact.doubt();
    assert!(!trust.rebootstrap_is_due());
    trust.confirmed();
    tokio::time::advance(Duration::from_secs(2)).await;
    trust.contact.doubt();
    assert!(!trust.rebootstrap_is_due(), "it was the right one meanwhile");
    tokio::time::advance(Duration::from_secs(600)).await;
    assert!(trust.rebootstrap_is_due());
    trust.client.set_server_is_unknown(false);
    assert!(!trust.rebootstrap_is_due(), "who answers now is the one that we know, whatever else is wrong");
    trust.client.set_server_is_unknown(true);
    assert!(trust.rebootstrap_is_due());
    trust.never_rebootstrap();
    assert!(!trust.rebootstrap_is_due());

    let never = due(RebootstrapMode::Never);
    never.client.set_server_is_unknown(true);
    never.contact.doubt();
    tokio::time::advance(Duration::from_secs(601)).await;
    assert!(!never.rebootstrap_is_due());
}

async fn stored(trust: &Trust) {
    while !trust.data_dir.is_stored() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn attempts_are_counted_across_restarts_until_the_server_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let open = || trust(Bootstrap::Bundle(empty()), RebootstrapMode::Auto, directory.path());
    // It is written in the background.
    let attempt = async || {
        let trust = open();
        let attempt = trust.contact.attempt();
        stored(&trust).await;
        attempt
    };
    let first = attempt().await;
    assert_eq!((first.mode, first.number, first.since.as_str()), ("bootstrap", 1, "1970-01-01T00:16:40Z"));
    assert_eq!(attempt().await.number, 2);
    let trust = open();
    trust.confirmed();
    stored(&trust).await;
    let again = attempt().await;
    assert_eq!((again.mode, again.number), ("rebootstrap", 1));
}
