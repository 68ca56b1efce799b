//! A stream of X.509-SVIDs that stays open.

use std::collections::HashSet;

use tokio::sync::mpsc;
use tokio::time::sleep;
use vouchsafe_proto::workload as api;

use super::{Ask, Event, Failure, RECONNECT, Target, client, unix_micros, unix_secs, with_header};

/// Watches until nobody listens any more. A stream that ends is opened again, as client libraries do.
pub(super) async fn run(target: &Target, number: usize, events: &mpsc::Sender<Event>) {
    let mut seen = HashSet::new();
    loop {
        let Err(failure) = stream(target, number, events, &mut seen).await else { return };
        let event = Event { error: Some(failure.text()), ..event(number) };
        if events.send(event).await.is_err() {
            return;
        }
        sleep(RECONNECT).await;
    }
}

/// `Ok` when nobody listens.
async fn stream(
    target: &Target,
    number: usize,
    events: &mpsc::Sender<Event>,
    seen: &mut HashSet<String>,
) -> Result<(), Failure> {
    let mut client = client(&target.socket).await?;
    let mut stream = client.fetch_x509svid(with_header(api::X509svidRequest {})).await?.into_inner();
    while let Some(message) = stream.message().await? {
        let mut event = event(number);
        event.count = super::svids::usable(&message, "", unix_secs()).map_err(Failure::Wrong)?;
        let new = message.svids.into_iter().map(|svid| svid.spiffe_id);
        event.new = new.filter(|id| seen.insert(id.clone())).collect();
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
    Err(Failure::Wrong("the stream ended".to_owned()))
}

fn event(target: usize) -> Event {
    Event { ask: Ask::Watch, target, at: unix_micros(), took: 0, count: 0, new: Vec::new(), error: None }
}
