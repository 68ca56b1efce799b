//! Limits of what an agent keeps.

use super::support::*;

/// Makes this process one with supplementary group `gid` for the agent's attestor, from its next attestation on.
fn become_member_of(proc_root: &Path, gid: usize) {
    let process = proc_root.join(std::process::id().to_string());
    std::fs::create_dir_all(&process).unwrap();
    let (uid, own_gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let status = format!(
        "Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{own_gid}\t{own_gid}\t{own_gid}\t{own_gid}\nGroups:\t{gid}\n"
    );
    std::fs::write(process.join("status"), status).unwrap();
}

#[tokio::test]
async fn more_workloads_than_svids_have_room_all_get_theirs() {
    const ROOM: usize = 8;
    const WORKLOADS: usize = 20;
    let world = World::new().await;
    let group = |n: usize| 3_000_000_000 + n;
    for n in 0..WORKLOADS {
        world.fake.put(&format!("w{n:02}"), &[format!("unix:supplementary_gid:{}", group(n))], |_| ());
    }
    let proc_root = world.dir.path().join("proc");
    become_member_of(&proc_root, group(0));
    let mut config = world.config(world.server.as_ref().unwrap().address.to_string());
    config.x509_svid_cache_max_size = ROOM;
    config.unix.as_mut().unwrap().proc_root = proc_root.clone();
    let socket = config.socket_path.clone();
    let mut agent = world.start_with(config).await;
    agent.serving().await;
    let mut status = agent.status.clone();
    let full = status.wait_for(|status| status.x509_svids == ROOM);
    timeout(SOON, full).await.expect("the cache fills ahead of need").unwrap();

    // Twice, so that those that made room come back.
    for n in (0..WORKLOADS).chain(0..WORKLOADS) {
        become_member_of(&proc_root, group(n));
        agent.client = connect(&socket).await;
        let answer = timeout(SOON, agent.x509_once()).await.expect("in time").unwrap();
        assert_eq!(ids(&answer), [format!("spiffe://example.org/w{n:02}")]);
    }
    let within = status.wait_for(|status| status.x509_svids <= ROOM);
    timeout(SOON, within).await.expect("what nobody uses goes").unwrap();
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn streams_that_are_open_keep_their_svids_above_the_limit() {
    const STREAMS: usize = 5;
    let world = World::new().await;
    let group = |n: usize| 3_000_000_000 + n;
    for n in 0..STREAMS {
        world.fake.put(&format!("w{n}"), &[format!("unix:supplementary_gid:{}", group(n))], |_| ());
    }
    let proc_root = world.dir.path().join("proc");
    become_member_of(&proc_root, group(0));
    let mut config = world.config(world.server.as_ref().unwrap().address.to_string());
    config.x509_svid_cache_max_size = 2;
    config.unix.as_mut().unwrap().proc_root = proc_root.clone();
    let socket = config.socket_path.clone();
    let mut agent = world.start_with(config).await;
    agent.serving().await;
    let mut streams = Vec::new();
    for n in 0..STREAMS {
        become_member_of(&proc_root, group(n));
        agent.client = connect(&socket).await;
        let mut stream = agent.x509().await;
        assert_eq!(ids(&next(&mut stream).await), [format!("spiffe://example.org/w{n}")]);
        streams.push(stream);
    }
    let all = agent.status.wait_for(|status| status.x509_svids == STREAMS);
    timeout(SOON, all).await.expect("every open stream's SVID is kept").unwrap();
    drop(streams);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn more_tokens_than_have_room_are_all_given() {
    const ROOM: usize = 8;
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut config = world.config(world.server.as_ref().unwrap().address.to_string());
    config.jwt_svid_cache_max_size = ROOM;
    let mut agent = world.start_with(config).await;
    agent.serving().await;
    for round in 0..2 {
        for audience in 0..20 {
            let token = agent.jwt(&[&format!("a{audience}")]).await.unwrap();
            assert_eq!(token.len(), 1, "round {round}");
        }
    }
    let asked = world.fake.jwts.load(Ordering::SeqCst);
    assert!(asked > 20, "those that made room were asked for again: {asked}");
    agent.status.wait_for(|status| status.jwt_svids > 0 && status.jwt_svids <= ROOM).await.unwrap();
    agent.stop().await.unwrap();
}
