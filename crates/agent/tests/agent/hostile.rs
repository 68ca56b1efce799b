//! Clients that mean harm: what they do must not reach the others. They speak HTTP/2 by hand, because no client library
//! behaves so badly.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use super::support::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that the whole test process may grow by while a client does its worst.
const MAY_GROW: usize = 192 * 1024 * 1024;

/// A connection that sends frames and reads only when it is told to.
struct Rogue(UnixStream);

impl Rogue {
    fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(PREFACE).unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
        // A write that blocks shows that the agent has stopped reading, which is one of its defences.
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        Self(stream)
    }

    /// Calls a method with an empty message and reads nothing. Returns whether the agent takes more.
    fn call(&mut self, stream: u32, path: &str) -> bool {
        self.send(stream, path, &[0; 5], END_STREAM)
    }

    fn send(&mut self, stream: u32, path: &str, message: &[u8], flags: u8) -> bool {
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &headers(path));
        bytes.extend(frame(DATA, flags, stream, message));
        self.0.write_all(&bytes).is_ok()
    }

    /// Whether the call on `stream` is answered.
    fn answered(&mut self, stream: u32) -> bool {
        self.0.set_read_timeout(Some(SOON)).unwrap();
        let mut head = [0; 9];
        while self.0.read_exact(&mut head).is_ok() {
            let [a, b, c, kind, _, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            if self.0.read_exact(&mut payload).is_err() {
                return false;
            }
            if (kind, u32::from_be_bytes(id)) == (HEADERS, stream) {
                return true;
            }
        }
        false
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// RFC 9113 §4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// RFC 7541 §6.2.2: literals without indexing.
fn headers(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("workload.spiffe.io", "true"),
    ];
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(u8::try_from(text.len()).unwrap());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

const X509: &str = "/SpiffeWorkloadAPI/FetchX509SVID";

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

async fn world_with_a_workload() -> (World, RunningAgent) {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    (world, agent)
}

fn socket(world: &World) -> std::path::PathBuf {
    world.dir.path().join("public/api.sock")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_cost_nobody_else_anything() {
    let (world, mut agent) = world_with_a_workload().await;
    let mut stream = agent.x509().await;
    assert_eq!(next(&mut stream).await.svids.len(), 1);
    let before = resident_bytes();
    let socket = socket(&world);
    let rogues = vouchsafe_runtime::blocking::run(move || {
        let mut rogues: Vec<_> = (0..40).map(|_| Rogue::connect(&socket)).collect();
        for rogue in &mut rogues {
            for n in 0..200 {
                if !rogue.call(1 + 2 * n, X509) {
                    break;
                }
            }
        }
        rogues
    })
    .await
    .unwrap();
    for n in 0..20 {
        world.fake.put("web", &own_uid(), |entry| entry.hint = format!("h{n}"));
        while next(&mut stream).await.svids[0].hint != format!("h{n}") {}
        assert!(timeout(SOON, agent.x509_once()).await.expect("an answer in time").is_ok());
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < MAY_GROW, "{grown} bytes");
    drop(rogues);
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_on_one_connection_are_not_served_at_once() {
    let (world, mut agent) = world_with_a_workload().await;
    let before = resident_bytes();
    let socket = socket(&world);
    let (rogue, opened) = vouchsafe_runtime::blocking::run(move || {
        let mut rogue = Rogue::connect(&socket);
        let opened = (0..10_000).take_while(|n| rogue.call(1 + 2 * n, X509)).count();
        (rogue, opened)
    })
    .await
    .unwrap();
    assert!(timeout(SOON, agent.x509_once()).await.expect("an answer in time").is_ok());
    let metrics = agent.registry.render();
    let open: f64 = metrics
        .lines()
        .find_map(|line| line.strip_prefix("spire_agent_workload_api_connections "))
        .unwrap()
        .parse()
        .unwrap();
    assert!(open <= 256.0 + 1.0, "{open} of {opened} streams are open");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < MAY_GROW, "{grown} bytes");
    drop(rogue);
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_100_mib_is_refused_by_its_length() {
    let (world, mut agent) = world_with_a_workload().await;
    let socket = socket(&world);
    let refused = vouchsafe_runtime::blocking::run(move || {
        let mut rogue = Rogue::connect(&socket);
        let mut message = vec![0];
        message.extend((100_u32 << 20).to_be_bytes());
        message.extend([7; 1024]);
        assert!(
            rogue.send(1, "/SpiffeWorkloadAPI/ValidateJWTSVID", &message, 0),
            "and there is more to come"
        );
        rogue.answered(1)
    });
    assert!(timeout(SOON * 2, refused).await.expect("an answer in time").unwrap());
    assert!(timeout(SOON, agent.x509_once()).await.expect("an answer in time").is_ok());
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connections_of_one_process_leave_room_for_another() {
    let (world, agent) = world_with_a_workload().await;
    let path = socket(&world);
    let socket = path.clone();
    let held: Vec<_> = vouchsafe_runtime::blocking::run(move || {
        (0..2000).filter_map(|_| UnixStream::connect(&socket).ok()).collect()
    })
    .await
    .unwrap();
    // Another process of the same user. Where there is no Python, nothing is shown.
    let program = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.settimeout(15)\ns.connect(sys.argv[1])\n\
        s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n'+bytes([0,0,0,4,0,0,0,0,0]))\nsys.exit(0 if s.recv(9) else 1)";
    let child = Command::new("python3").args(["-c", program]).arg(&path).stdin(Stdio::null()).spawn();
    let Ok(mut child) = child else { return };
    let served = vouchsafe_runtime::blocking::run(move || child.wait().unwrap().success());
    assert!(timeout(SOON, served).await.expect("an answer in time").unwrap(), "{} connections", held.len());
    drop(held);
    agent.stop().await.unwrap();
}
