//! A server's answers to an attested agent: new SVIDs, over mTLS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::transport::Channel;
use vouchsafe_proto::spire::api::server::svid::v1 as api;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;

use crate::Scale;
use crate::client::{Remote, entry, new_csr};
use crate::load::{AUDIENCE, drive};
use crate::rates::Subject;
use crate::report::Report;
use crate::world::{World, eventually};

/// An agent of one server, with its connections.
struct Signer {
    entry_id: String,
    csr: Bytes,
    connections: Vec<SvidClient<Channel>>,
}

#[derive(Clone, Copy)]
enum Kind {
    /// So many in a call.
    X509(usize),
    Jwt,
}

pub(crate) async fn measure(worlds: &[World; 2], scale: &Scale, report: &mut Report) {
    Report::section(
        "Signing over mTLS (ec-p256): 16 calls in flight on 2 connections of an agent, the server's CPU",
    );
    let [stock, ours] = worlds;
    let signers = [Arc::new(Signer::of(stock).await), Arc::new(Signer::of(ours).await)];
    let servers = worlds.each_ref().map(|world| &world.server);
    for (kind, what, per_call) in [
        (Kind::X509(1), "BatchNewX509SVID, 1 in a call", 1),
        (Kind::X509(BATCH), "BatchNewX509SVID, 50 in a call", BATCH),
        (Kind::Jwt, "NewJWTSVID", 1),
    ] {
        let subject = Subject { what: what.to_owned(), unit: "per s core", per_call };
        let turn = async |which: usize, turn| load(&signers[which], kind, turn).await;
        subject.measure(servers, turn, scale, report).await;
    }
}

async fn load(signer: &Arc<Signer>, kind: Kind, turn: Duration) -> Vec<Duration> {
    let callers = (0..IN_FLIGHT).map(|number| {
        let signer = signer.clone();
        move || {
            let signer = signer.clone();
            async move { assert!(signer.call(number, kind).await, "the server refused to sign") }
        }
    });
    drive(callers.collect(), turn).await
}

impl Signer {
    async fn of(world: &World) -> Self {
        let admin = world.admin().await;
        let remote = Remote::of(world.port, &admin).await;
        let node = remote.attest(&admin.join_token(None).await).await;
        // No process has this user.
        let created = admin.create(vec![entry(&node.path, "signed", "uid:4000000000".to_owned())]).await;
        let connections = (0..CONNECTIONS).map(|_| SvidClient::new(remote.channel_of(&node))).collect();
        let signer = Self { entry_id: created[0].clone(), csr: new_csr().await, connections };
        eventually("the agent is authorized for its entry", async || {
            signer.call(0, Kind::X509(1)).await.then_some(())
        })
        .await;
        signer
    }

    /// Whether all that was asked for was issued.
    async fn call(&self, number: usize, kind: Kind) -> bool {
        let mut client = self.connections[number % CONNECTIONS].clone();
        match kind {
            Kind::X509(count) => {
                let params =
                    api::NewX509svidParams { entry_id: self.entry_id.clone(), csr: self.csr.clone() };
                let request = api::BatchNewX509svidRequest { params: vec![params; count] };
                let answer = client.batch_new_x509svid(request).await.unwrap().into_inner();
                answer.results.len() == count && answer.results.iter().all(|result| result.svid.is_some())
            }
            Kind::Jwt => {
                let request = api::NewJwtsvidRequest {
                    entry_id: self.entry_id.clone(),
                    audience: vec![AUDIENCE.into()],
                };
                client.new_jwtsvid(request).await.unwrap().into_inner().svid.is_some()
            }
        }
    }
}

const CONNECTIONS: usize = 2;
const IN_FLIGHT: usize = 16;
const BATCH: usize = 50;
