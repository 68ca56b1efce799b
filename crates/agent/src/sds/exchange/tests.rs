use super::*;
use crate::sds::resources::tests::{made, secret_names};

fn request(names: &[&str], version: &str, nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: version.to_owned(),
        node: None,
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: "secret".to_owned(),
        response_nonce: nonce.to_owned(),
        error_detail: None,
    }
}

fn sent(answer: Option<Bytes>) -> DiscoveryResponse {
    DiscoveryResponse::decode(answer.expect("an answer")).unwrap()
}

fn answer(exchange: &mut Exchange, secrets: &[&str], nonce: &str) -> Option<Bytes> {
    assert!(exchange.owed().is_some(), "an answer is owed");
    exchange.answer(made(secrets), Some(nonce.to_owned()))
}

#[test]
fn a_request_is_answered_once_and_then_each_change() {
    let mut exchange = Exchange::new(false);
    exchange.changed();
    assert!(exchange.owed().is_none(), "nothing was asked for");
    assert_eq!(exchange.hear(request(&["a"], "", "")), Heard::Fine);
    let first = sent(answer(&mut exchange, &["a1"], "n1"));
    assert_eq!(
        (first.version_info.as_str(), first.nonce.as_str(), first.type_url.as_str()),
        ("1", "n1", "secret")
    );
    assert_eq!(secret_names(&first), ["a1"]);
    assert_eq!(exchange.hear(request(&["a"], "1", "n1")), Heard::Fine);
    assert!(exchange.owed().is_none(), "it was acknowledged");
    exchange.changed();
    let second = sent(answer(&mut exchange, &["a2"], "n2"));
    assert_eq!((second.version_info.as_str(), secret_names(&second)), ("2", vec!["a2".to_owned()]));
}

#[test]
fn a_change_of_something_else_sends_nothing_and_costs_no_version() {
    let mut exchange = Exchange::new(false);
    exchange.hear(request(&["a"], "", ""));
    sent(answer(&mut exchange, &["a"], "n1"));
    exchange.changed();
    assert!(answer(&mut exchange, &["a"], "n2").is_none());
    assert_eq!(exchange.hear(request(&["a"], "1", "n1")), Heard::Fine, "the first answer still counts");
}

#[test]
fn other_names_are_answered_at_once_under_the_same_version() {
    let mut exchange = Exchange::new(false);
    exchange.hear(request(&["a"], "", ""));
    sent(answer(&mut exchange, &["a"], "n1"));
    exchange.hear(request(&["b"], "1", "n1"));
    let other = sent(answer(&mut exchange, &["b"], "n2"));
    assert_eq!((other.version_info.as_str(), other.nonce.as_str()), ("1", "n2"));
    exchange.hear(request(&["b", "b", ""], "1", "n2"));
    assert!(exchange.owed().is_none(), "the same names in other words");
}

#[test]
fn a_request_about_an_earlier_answer_is_ignored() {
    let mut exchange = Exchange::new(false);
    exchange.hear(request(&["a"], "", ""));
    sent(answer(&mut exchange, &["a"], "n1"));
    let expected = "n1".to_owned();
    assert_eq!(exchange.hear(request(&["b"], "1", "other")), Heard::Stale { expected });
    assert!(exchange.owed().is_none());
    exchange.changed();
    assert_eq!(&*exchange.owed().unwrap().names, [Box::from("a")]);
}

#[test]
fn a_rejection_is_noticed_and_not_answered_with_the_same_again() {
    let mut exchange = Exchange::new(false);
    exchange.hear(request(&["a"], "", ""));
    sent(answer(&mut exchange, &["a"], "n1"));
    let rejected = Heard::Rejected { expected: "1".to_owned() };
    assert_eq!(exchange.hear(request(&["a"], "", "n1")), rejected);
    assert!(exchange.owed().is_none());
    assert_eq!(exchange.hear(request(&["a", "b"], "", "n1")), rejected);
    assert!(exchange.owed().is_some(), "but it may ask for something else");
}

#[test]
fn a_client_that_comes_again_brings_its_version_and_is_answered() {
    let mut exchange = Exchange::new(false);
    assert_eq!(exchange.hear(request(&["a"], "17", "")), Heard::Fine);
    assert_eq!(sent(answer(&mut exchange, &["a"], "n1")).version_info, "1");
}

#[test]
fn the_node_of_an_earlier_request_holds() {
    let mut exchange = Exchange::new(true);
    exchange.hear(request(&["a"], "", ""));
    assert_eq!(exchange.owed().unwrap().validator, Validator::TrustedCa);
    let metadata = prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(false)) };
    let metadata =
        prost_types::Struct { fields: [("disable_spiffe_cert_validation".to_owned(), metadata)].into() };
    let node =
        vouchsafe_proto::envoy::config::core::v3::Node { metadata: Some(metadata), ..Default::default() };
    exchange.hear(DiscoveryRequest { node: Some(node), ..request(&["a"], "", "") });
    assert_eq!(exchange.owed().unwrap().validator, Validator::Spiffe);
    exchange.hear(request(&["b"], "", ""));
    assert_eq!(exchange.owed().unwrap().validator, Validator::Spiffe);
}

#[test]
fn an_answer_outside_of_a_stream_has_neither_version_nor_nonce() {
    let mut exchange = Exchange::new(false);
    exchange.hear(request(&["a"], "", ""));
    let answer = sent(exchange.answer(made(&["a"]), None));
    assert_eq!((answer.version_info.as_str(), answer.nonce.as_str()), ("", ""));
    assert_eq!(secret_names(&answer), ["a"]);
}

#[test]
fn a_type_without_end_is_refused() {
    let mut exchange = Exchange::new(false);
    let long = DiscoveryRequest { type_url: "x".repeat(100_000), ..request(&["a"], "", "") };
    assert_eq!(exchange.hear(long), Heard::TypeTooLong);
    assert!(exchange.owed().is_none());
}
