//! An agent's answers to workloads: an SVID and a token that it holds.

use vouchsafe_proto::workload::X509svidRequest;
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_transport::connect::uds_channel;

use crate::Scale;
use crate::client::{entry, this_user};
use crate::load::{self, Method, with_header};
use crate::rates::Subject;
use crate::report::Report;
use crate::world::{NODE, World, eventually};

const IN_FLIGHT: usize = 32;
const CONNECTIONS: usize = 4;

pub(crate) async fn measure(worlds: &[World; 2], scale: &Scale, report: &mut Report) {
    Report::section("Workload API: 32 calls in flight on 4 connections, the agent's CPU");
    for world in worlds {
        world.admin().await.create(vec![entry(NODE, "workload", this_user())]).await;
    }
    for world in worlds {
        wait_for_svid(world).await;
    }
    let agents = worlds.each_ref().map(World::agent);
    for method in [Method::X509, Method::Jwt] {
        let subject = Subject { what: method.name().to_owned(), unit: "per s core", per_call: 1 };
        let turn = async |which: usize, turn| {
            let socket = worlds[which].workload_socket();
            load::run(&socket, method, IN_FLIGHT, CONNECTIONS, turn).await
        };
        subject.measure(agents, turn, scale, report).await;
    }
}

/// Until this user's processes get an SVID.
pub(crate) async fn wait_for_svid(world: &World) {
    let channel = uds_channel(&world.workload_socket()).await.unwrap();
    eventually("an SVID", async || {
        let mut client = SpiffeWorkloadApiClient::new(channel.clone());
        let answers = client.fetch_x509svid(with_header(X509svidRequest {})).await;
        answers.ok()?.into_inner().message().await.ok()?
    })
    .await;
}
