//! `agent connected`: which agents are in contact with this server. Not in SPIRE.

use clap::Args;
use serde_json::json;
use vouchsafe_proto::vouchsafe::server::v1::contacts_client::ContactsClient;
use vouchsafe_proto::vouchsafe::server::v1::{Contact, ListContactsRequest};

use super::super::ServerCall;
use crate::cli::call::failed_to;
use crate::cli::output::counted;
use crate::cli::pages;
use crate::cli::socket::MAX_ANSWER_BYTES;
use crate::console::Console;
use crate::go;

/// Agents asked for at once.
const PAGE_SIZE: i32 = 1000;

#[derive(Args, Debug)]
pub(in crate::cli) struct ConnectedArgs {
    /// Only attested agents that are not connected to this server
    #[arg(long = "disconnected")]
    disconnected: bool,
    #[command(flatten)]
    call: ServerCall,
}

pub(super) async fn connected(arguments: ConnectedArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let channel = arguments.call.connect(console).await?.map_err(failed_to(""))?;
    let client = ContactsClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
    let contacts = pages::all(async |page_token| {
        let only_disconnected = arguments.disconnected;
        let request = ListContactsRequest { only_disconnected, page_size: PAGE_SIZE, page_token };
        let page = client.clone().list_contacts(request).await?.into_inner();
        Ok((page.contacts, page.next_page_token))
    });
    let contacts = contacts.await.map_err(failed_to(""))?;
    arguments.call.output.print(
        console,
        || json!({ "agents": contacts.iter().map(as_json).collect::<Vec<_>>() }),
        |console| {
            let connected = contacts.iter().filter(|contact| contact.connected).count();
            let listed = counted(contacts.len(), "attested ", "agent", "agents");
            writeln!(console.stdout, "{listed}, {connected} connected to this server")?;
            for contact in &contacts {
                writeln!(console.stdout, "{:<14} {}", state(contact), contact.spiffe_id)?;
                if !contact.connected {
                    writeln!(console.stdout, "{:<14} {}", "", heard(contact))?;
                }
            }
            Ok(())
        },
    )
}

fn state(contact: &Contact) -> &'static str {
    match (contact.connected, contact.listens) {
        (true, true) => "listening",
        (true, false) => "polling",
        (false, _) => "disconnected",
    }
}

fn heard(contact: &Contact) -> String {
    match contact.last_heard {
        0 => "not heard of since this server started, or for a day".to_owned(),
        at => format!("last heard of at {}", go::time_string(at)),
    }
}

fn as_json(contact: &Contact) -> serde_json::Value {
    json!({
        "id": contact.spiffe_id,
        "state": state(contact),
        "last_heard": contact.last_heard,
    })
}
