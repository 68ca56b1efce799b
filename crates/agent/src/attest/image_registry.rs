//! The way to image registries, for [`vouchsafe_sigstore`]: one GET over this program's one HTTP client.

use async_trait::async_trait;
use vouchsafe_identity::web::{WebRoots, web_client_config};
use vouchsafe_runtime::blocking;
use vouchsafe_runtime::chain::Chain;
use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_sigstore::{Web, WebAnswer, WebError, WebRequest};
use vouchsafe_transport::fetch::{self, Bounds, Target};

/// Asks registries, which must prove their host names.
#[derive(Clone, Debug)]
pub(super) struct RegistryWeb {
    /// Who may vouch for a registry. SPIRE takes the system's.
    pub(super) roots: WebRoots,
    /// The time, for certificates.
    pub(super) clock: Clock,
}

#[async_trait]
impl Web for RegistryWeb {
    async fn get(&self, request: &WebRequest) -> Result<WebAnswer, WebError> {
        let target = self.target(request).await?;
        let mut body = Vec::new();
        let bounds = Bounds { deadline: request.deadline, body: request.body };
        let asked = fetch::read(&target, bounds, &mut body).await;
        let head =
            asked.map_err(|error| WebError { message: Chain(&error).to_string(), class: error.class() })?;
        Ok(WebAnswer {
            status: head.status.as_u16(),
            location: head.location,
            challenges: head.challenges,
            body: body.into(),
        })
    }
}

impl RegistryWeb {
    async fn target(&self, request: &WebRequest) -> Result<Target, WebError> {
        let wrong =
            |error: fetch::Error| WebError { message: Chain(&error).to_string(), class: error.class() };
        let mut target = if request.url.starts_with("http://") {
            Target::plain(&request.url).map_err(wrong)?
        } else {
            let (roots, clock) = (self.roots.clone(), self.clock.clone());
            // The system's certificates are files.
            let config = blocking::run(move || web_client_config(&roots, clock)).await;
            let failed = |message| WebError { message, class: Class::Permanent };
            let config = config.map_err(|error| failed(error.to_string()))?;
            Target::https(&request.url, &config.map_err(|error| failed(Chain(&error).to_string()))?)
                .map_err(wrong)?
        };
        if let Some(types) = request.accept {
            target = target.with_accept(types);
        }
        match &request.authorization {
            Some(credentials) => target.with_authorization(credentials).map_err(wrong),
            None => Ok(target),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    /// What is asked for, and what comes of `answer`.
    async fn exchange(
        answer: &'static str,
        request: impl FnOnce(u16) -> WebRequest,
    ) -> (String, Result<WebAnswer, WebError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let request = request(listener.local_addr().unwrap().port());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            drop(stream.shutdown().await);
            String::from_utf8(asked).unwrap()
        });
        let web = RegistryWeb { roots: WebRoots::System, clock: Clock::standing(SystemTime::UNIX_EPOCH).0 };
        let answer = web.get(&request).await;
        (tasks.join_next().await.unwrap().unwrap(), answer)
    }

    fn asking(port: u16) -> WebRequest {
        WebRequest {
            url: format!("http://127.0.0.1:{port}/v2/a/manifests/b"),
            accept: Some("application/x"),
            authorization: Some("Basic eDp5".to_owned().into()),
            deadline: Duration::from_secs(10),
            body: 5,
        }
    }

    #[tokio::test]
    async fn headers_go_and_come() {
        let (asked, answer) = exchange(
            "HTTP/1.1 401 Unauthorized\r\nLocation: /x\r\nWWW-Authenticate: Basic\r\nwww-authenticate: Bearer realm=\"y\"\r\nContent-Length: 5\r\n\r\nhello",
            asking,
        )
        .await;
        assert!(asked.starts_with("GET /v2/a/manifests/b HTTP/1.1\r\n"), "{asked}");
        assert!(
            asked.contains("accept: application/x\r\n") && asked.contains("authorization: Basic eDp5\r\n"),
            "{asked}"
        );
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status, answer.location.as_deref(), &*answer.body),
            (401, Some("/x"), &b"hello"[..])
        );
        assert_eq!(answer.challenges, ["Basic", "Bearer realm=\"y\""]);
    }

    #[tokio::test]
    async fn a_body_beyond_its_bound_is_refused() {
        let (_, answer) = exchange("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello!", asking).await;
        let error = answer.unwrap_err();
        assert_eq!(
            (error.class, error.message.contains("more than 5 bytes")),
            (Class::Peer, true),
            "{error}"
        );
    }
}
