use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::*;
use vouchsafe_transport::net::{Port, Socket};

const DELAY: Duration = Duration::from_millis(10);

async fn pair(net: &Net) -> (Socket, Socket, Port) {
    let address = SocketAddr::new(net.address(1), 8081);
    let mut port = net.process(1).bind(address).await.unwrap();
    let client = net.process(0).connect(address).await.unwrap();
    let (server, from) = port.accept().await.unwrap();
    assert_eq!(from.ip(), net.address(0));
    (client, server, port)
}

fn net() -> Net {
    Net::new(1, &["a".into(), "b".into()], DELAY)
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_in_order_after_the_delay() {
    let net = net();
    let (mut client, mut server, _port) = pair(&net).await;
    let began = Instant::now();
    client.write_all(b"hello ").await.unwrap();
    client.write_all(b"world").await.unwrap();
    drop(client);
    let mut read = String::new();
    server.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "hello world");
    assert_eq!(began.elapsed(), DELAY);
}

#[tokio::test(start_paused = true)]
async fn while_a_link_is_cut_nothing_arrives_and_nobody_is_told() {
    let net = net();
    let (mut client, mut server, _port) = pair(&net).await;
    net.change(0, 1, |link| link.cut = true);
    let began = Instant::now();
    client.write_all(b"x").await.unwrap();
    let healer = async {
        sleep(Duration::from_secs(60)).await;
        net.change(0, 1, |link| link.cut = false);
    };
    let (read, ()) = tokio::join!(server.read_u8(), healer);
    assert_eq!(read.unwrap(), b'x');
    assert_eq!(began.elapsed(), Duration::from_secs(60) + DELAY);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_closes_its_connections_and_its_port() {
    let net = net();
    let (mut client, mut server, _port) = pair(&net).await;
    net.kill(1);
    assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(server.write_all(b"zombie").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let address = SocketAddr::new(net.address(1), 8081);
    let refused = net.process(0).connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert!(net.process(1).bind(address).await.is_ok(), "its successor has the port");
}

#[tokio::test(start_paused = true)]
async fn a_crash_behind_a_cut_link_is_not_noticed_before_it_heals() {
    let net = net();
    let (mut client, _server, _port) = pair(&net).await;
    net.change(0, 1, |link| link.cut = true);
    net.kill(1);
    let silence = tokio::time::timeout(Duration::from_secs(600), client.read_u8()).await;
    assert!(silence.is_err());
    net.change(0, 1, |link| link.cut = false);
    assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_lossy_link_delays_and_loses_nothing() {
    let net = net();
    net.change(0, 1, |link| link.loss = 0.3);
    let (mut client, mut server, _port) = pair(&net).await;
    let began = Instant::now();
    let sender = async {
        for byte in 0..100_u8 {
            client.write_all(&[byte]).await.unwrap();
            sleep(Duration::from_millis(7)).await;
        }
    };
    let receiver = async {
        for byte in 0..100_u8 {
            assert_eq!(server.read_u8().await.unwrap(), byte);
        }
        began.elapsed()
    };
    let (took, ()) = tokio::join!(receiver, sender);
    assert!(took > Duration::from_millis(800), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_leads_to_all_its_hosts() {
    let net = net();
    net.alias("server", &[0, 1]);
    let found = net.bystander(0).resolve("server:8081").await.unwrap();
    assert_eq!(found.iter().map(SocketAddr::ip).collect::<Vec<_>>(), [net.address(0), net.address(1)]);
    assert!(net.bystander(0).resolve("other:8081").await.is_err());
}
