//! A kubelet that lists Pods, to try the `k8s` workload attestor by hand without a cluster.
//!
//! `fake-kubelet PORT FILE` serves `FILE` (a `PodList` in JSON, read again for each line on standard input) at
//! `http://127.0.0.1:PORT/pods`. Lines on standard input change how: `reload`, `well`, `hang`, `close`, `half`,
//! `status 403 Forbidden`, `say <text>`, each perhaps after `slow <milliseconds>`.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use vouchsafe_testkit::kubelet::{Admits, FakeKubelet, Manner};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, port, file] = arguments.as_slice() else {
        return Err(std::io::Error::other("usage: fake-kubelet PORT FILE"));
    };
    let port = port.parse().map_err(std::io::Error::other)?;
    let kubelet = FakeKubelet::start(port, None, Admits::Anybody).await;
    kubelet.serves(std::fs::read(file)?);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut latency = Duration::ZERO;
    while let Some(line) = lines.next_line().await? {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let manner = match word {
            "slow" => {
                latency = Duration::from_millis(rest.parse().map_err(std::io::Error::other)?);
                Manner::Well
            }
            "hang" => Manner::Hangs,
            "close" => Manner::Closes,
            "half" => Manner::Half,
            "say" => Manner::Says(rest.as_bytes().to_vec()),
            "status" => {
                let (status, text) = rest.split_once(' ').unwrap_or((rest, ""));
                Manner::Status(status.parse().map_err(std::io::Error::other)?, text.to_owned())
            }
            _ => Manner::Well,
        };
        kubelet.serves(std::fs::read(file)?);
        kubelet.answers(manner, latency);
    }
    // Standard input ended: serve on.
    std::future::pending().await
}
