//! Requests of secret discovery, one after the other: the conversation owes what was asked for last, and what is said
//! about any of them is short. Each is preceded by its length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use vouchsafe_agent::sds::asked::{self, Listed, MAX_LISTED_BYTES};
use vouchsafe_agent::sds::exchange::{Exchange, Heard};
use vouchsafe_proto::envoy::service::discovery::v3::DiscoveryRequest;

fuzz_target!(|messages: &[u8]| {
    let mut rest = messages;
    let mut exchange = Exchange::new(messages.len() % 2 == 0);
    while let Ok(request) = DiscoveryRequest::decode_length_delimited(&mut rest) {
        let text = Listed(&request.resource_names).to_string();
        // An escaped character takes up to ten bytes, and each name three of its own.
        assert!(text.len() <= 10 * MAX_LISTED_BYTES + 3 * request.resource_names.len() + 64);
        let names = asked::names(request.resource_names.clone());
        assert!(names.is_sorted() && names.iter().all(|name| !name.is_empty()));
        let owed = exchange.owed().cloned();
        match exchange.hear(request) {
            Heard::TypeTooLong => assert_eq!(exchange.owed(), owed.as_ref()),
            Heard::Fine => assert_eq!(exchange.owed().expect("nothing was sent yet").names, names),
            heard => panic!("nothing was sent, so there is nothing to be about: {heard:?}"),
        }
    }
});
