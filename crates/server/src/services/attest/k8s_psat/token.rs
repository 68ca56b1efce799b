//! What a projected service account token says of itself.
//!
//! Nobody has verified it here, so it admits nobody. It refuses early what the API server would refuse too, so that a peer
//! who has no such token at hand costs the API server nothing.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Longest token, in bytes. One of a real API server has about a thousand.
pub(super) const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// How far the clocks of this server and of the API server, which decides, may be apart, in seconds.
const LEEWAY: f64 = 60.0;

/// What a token must say to be worth a question.
pub(super) struct Wanted<'a> {
    /// One of these must be among its audiences; empty: whatever the API server takes.
    pub(super) audiences: &'a [String],
    /// `namespace:name` of those that may attest.
    pub(super) service_accounts: &'a BTreeSet<String>,
    /// Unix seconds.
    pub(super) now: i64,
}

/// Why a token is not worth a question.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Useless {
    #[error("it is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    #[error("it is not a signed JWT")]
    NotAJwt,
    #[error("its claims cannot be read")]
    Claims,
    #[error("it is not the token of a service account")]
    NotAServiceAccount,
    #[error("its audiences are {0}")]
    Audience(String),
    #[error("it has expired")]
    Expired,
    #[error("{0:?} is not an allowed service account")]
    ServiceAccount(String),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: Option<String>,
    #[serde(default)]
    aud: Audiences,
    #[serde(default)]
    exp: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Audiences {
    Many(Vec<String>),
    One(String),
    #[default]
    None,
}

/// Whether the API server should be asked about `token`.
pub(super) fn check(token: &str, wanted: &Wanted<'_>) -> Result<(), Useless> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Useless::TooLong);
    }
    let mut parts = token.split('.');
    let (Some(header), Some(claims), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Useless::NotAJwt);
    };
    let header: Header = object(header).ok_or(Useless::NotAJwt)?;
    let signed = URL_SAFE_NO_PAD.decode(signature).is_ok_and(|signature| !signature.is_empty());
    if !signed || header.alg.eq_ignore_ascii_case("none") {
        return Err(Useless::NotAJwt);
    }
    let claims: Claims = object(claims).ok_or(Useless::Claims)?;
    let subject = claims.sub.as_deref().unwrap_or_default();
    let account = subject.strip_prefix(SUBJECT).ok_or(Useless::NotAServiceAccount)?;
    if account.len() > MAX_ACCOUNT {
        return Err(Useless::NotAServiceAccount);
    }
    let audiences = claims.aud.list();
    if !wanted.audiences.is_empty() && !audiences.iter().any(|each| wanted.audiences.contains(each)) {
        return Err(Useless::Audience(shortened(&audiences)));
    }
    #[expect(clippy::cast_precision_loss, reason = "seconds of this era fit")]
    let now = wanted.now as f64;
    if claims.exp.is_some_and(|end| end + LEEWAY < now) {
        return Err(Useless::Expired);
    }
    if !wanted.service_accounts.contains(account) {
        return Err(Useless::ServiceAccount(account.to_owned()));
    }
    Ok(())
}

impl Audiences {
    fn list(self) -> Vec<String> {
        match self {
            Self::Many(many) => many,
            Self::One(one) => vec![one],
            Self::None => Vec::new(),
        }
    }
}

fn object<T: DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// For a message: whoever made the token chose how long they are.
fn shortened(audiences: &[String]) -> String {
    let text = format!("{audiences:?}");
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// How the subject of each service account token begins.
const SUBJECT: &str = "system:serviceaccount:";
/// Bytes of `namespace:name`: a label of DNS, a colon, a name of DNS.
const MAX_ACCOUNT: usize = 63 + 1 + 253;
/// Characters of the audiences in a message.
const MAX_SHOWN: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn jwt(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(header), part(claims))
    }

    fn judged(claims: &Value) -> Result<(), Useless> {
        checked(&jwt(&json!({"alg": "ES256", "kid": "x"}), claims), &["spire-server"])
    }

    fn checked(token: &str, audiences: &[&str]) -> Result<(), Useless> {
        let audiences: Vec<String> = audiences.iter().map(|&each| each.to_owned()).collect();
        let service_accounts = BTreeSet::from(["spire:agent".to_owned()]);
        check(token, &Wanted { audiences: &audiences, service_accounts: &service_accounts, now: 1_000_000 })
    }

    fn claims() -> Value {
        json!({
            "aud": ["spire-server"], "exp": 1_000_600, "sub": "system:serviceaccount:spire:agent",
            "kubernetes.io": {"namespace": "spire"},
        })
    }

    fn with(key: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[key] = value;
        claims
    }

    #[test]
    fn a_token_that_the_api_server_may_take_is_worth_a_question() {
        assert_eq!(judged(&claims()), Ok(()));
        assert_eq!(judged(&with("aud", json!("spire-server"))), Ok(()));
        assert_eq!(judged(&with("aud", json!(["other", "spire-server"]))), Ok(()));
        assert_eq!(judged(&with("exp", json!(999_950))), Ok(()), "clocks differ");
        assert_eq!(judged(&with("exp", Value::Null)), Ok(()), "the API server knows");
        let token = jwt(&json!({"alg": "RS256"}), &with("aud", json!(["anything"])));
        assert_eq!(checked(&token, &[]), Ok(()), "the API server's own audience is asked for");
    }

    #[test]
    fn what_the_api_server_would_refuse_is_refused_without_asking_it() {
        assert_eq!(judged(&with("aud", json!(["other"]))), Err(Useless::Audience("[\"other\"]".into())));
        assert_eq!(judged(&with("aud", Value::Null)), Err(Useless::Audience("[]".into())));
        assert_eq!(judged(&with("exp", json!(999_000))), Err(Useless::Expired));
        assert_eq!(judged(&with("sub", json!("alice"))), Err(Useless::NotAServiceAccount));
        assert_eq!(judged(&with("sub", Value::Null)), Err(Useless::NotAServiceAccount));
        let long = format!("{SUBJECT}{}", "x".repeat(MAX_ACCOUNT + 1));
        assert_eq!(judged(&with("sub", json!(long))), Err(Useless::NotAServiceAccount));
        let other = Useless::ServiceAccount("default:default".into());
        assert_eq!(judged(&with("sub", json!("system:serviceaccount:default:default"))), Err(other));
        assert_eq!(judged(&with("aud", json!(7))), Err(Useless::Claims));
        assert_eq!(judged(&with("exp", json!("soon"))), Err(Useless::Claims));
    }

    #[test]
    fn what_is_no_signed_jwt_is_refused() {
        let check = |token: &str| assert_eq!(checked(token, &[]), Err(Useless::NotAJwt), "{token}");
        let whole = jwt(&json!({"alg": "ES256"}), &claims());
        let (unsigned, _) = whole.rsplit_once('.').unwrap();
        check("");
        check("x");
        check("a.b.c");
        check(unsigned);
        check(&format!("{unsigned}."));
        check(&format!("{whole}.c2ln"));
        check(&format!("{unsigned}.%%%"));
        check(&jwt(&json!({"alg": "none"}), &claims()));
        check(&jwt(&json!({"alg": 1}), &claims()));
        assert_eq!(checked(&"x".repeat(MAX_TOKEN_BYTES + 1), &[]), Err(Useless::TooLong));
    }

    #[test]
    fn a_message_does_not_grow_with_the_token() {
        let Err(Useless::Audience(shown)) = judged(&with("aud", json!(["é".repeat(3_000)]))) else {
            panic!("it was taken")
        };
        assert!(shown.chars().count() == MAX_SHOWN + 1 && shown.ends_with('…'), "{shown}");
    }
}
