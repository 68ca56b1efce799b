//! A proxy before the API server that answers some requests itself: refusals of reads, garbage, silence.
//!
//! The real API server cannot be told to refuse a read. Every request comes on a connection of its own, and an answer
//! passes through as it comes, so that watches work.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use super::Kubernetes;
use super::api::Api;
use super::listener::{Listener, Received, Stream, answer};

/// What the proxy does instead of asking the API server.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers so, with `Retry-After` where there is one.
    Refuse {
        /// The HTTP status.
        status: u16,
        /// `Retry-After`
        retry_after_secs: Option<u32>,
    },
    /// Answers 200 with these bytes.
    Garbage(Vec<u8>),
    /// Ends the connection without an answer.
    Hangup,
}

/// Requests that go wrong.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What the first line of the request has in it, such as `GET /api/v1/pods` or `watch=true`.
    pub matches: String,
    /// What happens.
    pub fault: Fault,
    /// How often.
    pub times: u32,
}

/// The proxy. It ends with the value.
pub struct Front {
    listener: Listener,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    faults: u32,
    /// First lines of all requests, without the version.
    seen: Vec<String>,
}

impl Kubernetes {
    /// A proxy before the API server.
    #[must_use]
    pub fn front(&self) -> Front {
        let (certificate, key) = self.pki.server(&self.unique("front"), &[]);
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, api) = (Arc::clone(&state), Api::new(self.port(), self.ca(), ""));
        let listener =
            Listener::start((&certificate, &key), move |received, stream| match decide(&shared, &received) {
                None => forward(&api, &received, stream),
                Some(fault) => go_wrong(&fault, stream),
            });
        Front { listener, state }
    }
}

impl Front {
    /// `https://127.0.0.1:<port>`: for [`Kubernetes::write_kubeconfig_for`] with a token; client certificates do not pass.
    #[must_use]
    pub fn url(&self) -> String {
        self.listener.url()
    }

    /// Lets requests go wrong from now on.
    pub fn add(&self, rule: Rule) {
        lock(&self.state).rules.push(rule);
    }

    /// How many requests went wrong.
    #[must_use]
    pub fn faults(&self) -> u32 {
        lock(&self.state).faults
    }

    /// All requests so far, as `GET /api/v1/pods?watch=true`.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        lock(&self.state).seen.clone()
    }
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("url", &self.url()).finish_non_exhaustive()
    }
}

fn decide(state: &Mutex<State>, received: &Received) -> Option<Fault> {
    let line = format!("{} {}", received.method, received.path);
    let mut state = lock(state);
    let rule = state.rules.iter_mut().find(|rule| rule.times > 0 && line.contains(&rule.matches));
    let fault = rule.map(|rule| {
        rule.times -= 1;
        rule.fault.clone()
    });
    state.faults += u32::from(fault.is_some());
    state.seen.push(line);
    fault
}

fn go_wrong(fault: &Fault, stream: &mut Stream) -> io::Result<()> {
    match fault {
        Fault::Refuse { status, retry_after_secs } => {
            let header = retry_after_secs.map(|secs| format!("Retry-After: {secs}\r\n")).unwrap_or_default();
            let body = serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status,
                "message": "refused by a test", "metadata": {},
            });
            answer(stream, *status, &header, body.to_string().as_bytes())
        }
        Fault::Garbage(bytes) => answer(stream, 200, "", bytes),
        Fault::Hangup => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

fn forward(api: &Api, received: &Received, stream: &mut Stream) -> io::Result<()> {
    let mut upstream = api.connect()?;
    write!(upstream, "{} {} HTTP/1.1\r\nConnection: close\r\n", received.method, received.path)?;
    let own = |line: &&str| !line.to_ascii_lowercase().starts_with("connection:");
    for line in received.headers.lines().filter(own) {
        write!(upstream, "{line}\r\n")?;
    }
    upstream.write_all(b"\r\n")?;
    upstream.write_all(&received.body)?;
    upstream.flush()?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match upstream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                stream.write_all(&buffer[..count])?;
                stream.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
