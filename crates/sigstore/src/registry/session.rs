//! Requests to one registry about one image: lets itself in once, and follows redirects.

use std::collections::HashMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::address::{authority, host, is_loopback, is_token_service, place, redirected};
use super::challenge::{self, Challenge};
use super::{DEADLINE, MAX_REDIRECTS, MAX_TOKEN_ANSWER, RegistryError, Web, WebAnswer, WebRequest};
use crate::image::ImageId;
use crate::settings::RegistryLogin;

/// A conversation about one image.
pub(crate) struct Session<'a> {
    web: &'a dyn Web,
    /// `https://host:port`.
    base: String,
    repository: String,
    login: Option<&'a RegistryLogin>,
    /// The header that the registry wants.
    authorization: Option<Zeroizing<String>>,
    /// Payloads by digest, [`MAX_HELD`] bytes of them.
    held: HashMap<String, Bytes>,
    room: usize,
}

impl<'a> Session<'a> {
    pub(crate) fn new(web: &'a dyn Web, image: &ImageId, login: Option<&'a RegistryLogin>) -> Self {
        let scheme = if is_loopback(host(image.registry())) { "http" } else { "https" };
        Self {
            web,
            base: format!("{scheme}://{}", image.registry()),
            repository: image.repository().to_owned(),
            login,
            authorization: None,
            held: HashMap::new(),
            room: MAX_HELD,
        }
    }

    pub(super) fn held(&self, digest: &str) -> Option<Bytes> {
        self.held.get(digest).cloned()
    }

    /// Keeps `payload` for the same digest later in this conversation, if there is room.
    pub(super) fn hold(&mut self, digest: &str, payload: &Bytes) {
        if let Some(room) = self.room.checked_sub(payload.len()) {
            self.room = room;
            self.held.insert(digest.to_owned(), payload.clone());
        }
    }

    /// The answer to `path`, after letting itself in where that is asked for.
    pub(super) async fn get(
        &mut self,
        path: &str,
        accept: Option<&'static str>,
        body: usize,
    ) -> Result<WebAnswer, RegistryError> {
        let url = format!("{}{path}", self.base);
        // An answer that asks for credentials has a text, too.
        let body = body.max(MAX_TOKEN_ANSWER);
        let asked =
            |authorization| WebRequest { url: url.clone(), accept, authorization, deadline: DEADLINE, body };
        let answer = self.follow(asked(self.authorization.clone())).await?;
        match answer.status {
            401 => {}
            403 => return Err(RegistryError::Denied { status: 403 }),
            _ => return Ok(answer),
        }
        let challenge = answer.challenges.iter().take(4).find_map(|header| challenge::parse(header));
        self.authorization = Some(self.let_in(challenge.ok_or(RegistryError::Challenge)?).await?);
        let answer = self.follow(asked(self.authorization.clone())).await?;
        match answer.status {
            status @ (401 | 403) => Err(RegistryError::Denied { status }),
            _ => Ok(answer),
        }
    }

    /// The answer at the end. One that asks for credentials is an error when it is not the registry's own.
    async fn follow(&self, mut request: WebRequest) -> Result<WebAnswer, RegistryError> {
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.ask(&request).await?;
            let own = authority(&request.url) == authority(&self.base);
            match answer.status {
                301 | 302 | 303 | 307 | 308 => {}
                status @ (401 | 403) if !own => {
                    return Err(RegistryError::Status { what: place(&request.url), status });
                }
                _ => return Ok(answer),
            }
            let refused = |problem| RegistryError::Redirect { what: place(&request.url), problem };
            let location = answer.location.ok_or_else(|| refused("to nowhere"))?;
            let target = redirected(&request.url, &location, &self.base).map_err(refused)?;
            if authority(&target) != authority(&request.url) {
                request.authorization = None;
            }
            request.url = target;
        }
        Err(RegistryError::Redirect { what: place(&request.url), problem: "too often" })
    }

    async fn ask(&self, request: &WebRequest) -> Result<WebAnswer, RegistryError> {
        let answer = self.web.get(request).await;
        answer.map_err(|source| RegistryError::Web { what: place(&request.url), source })
    }

    async fn let_in(&self, challenge: Challenge) -> Result<Zeroizing<String>, RegistryError> {
        let basic = self.login.map(|RegistryLogin { username, password }| {
            let pair = Zeroizing::new(format!("{username}:{}", **password));
            Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(pair.as_bytes())))
        });
        let Challenge::Bearer { realm, service, scope } = challenge else {
            return basic.ok_or(RegistryError::Denied { status: 401 });
        };
        if !is_token_service(&realm, &self.base) {
            return Err(RegistryError::Challenge);
        }
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let mut url =
            format!("{realm}{}scope={}", if realm.contains('?') { '&' } else { '?' }, escaped(&scope));
        if let Some(service) = service {
            url.push_str(&format!("&service={}", escaped(&service)));
        }
        let body = MAX_TOKEN_ANSWER;
        let answer = self
            .ask(&WebRequest { url, accept: None, authorization: basic, deadline: DEADLINE, body })
            .await?;
        let token = (answer.status == 200)
            .then(|| serde_json::from_slice::<TokenAnswer>(&answer.body).ok())
            .flatten();
        let token = token.and_then(|token| token.token.or(token.access_token)).map(Zeroizing::new);
        let no_token = || RegistryError::NoToken { url: place(&realm), status: answer.status };
        token.map(|token| Zeroizing::new(format!("Bearer {}", *token))).ok_or_else(no_token)
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Bytes of payloads that are kept in a conversation; what is beyond is fetched each time.
const MAX_HELD: usize = 1024 * 1024;

/// A value in a query (RFC 3986 §2.3).
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
