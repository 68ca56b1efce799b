//! Which request gets which page, as in SPIRE's provider.

use std::sync::Arc;

use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, EXPIRES, HOST, HeaderName, IF_MODIFIED_SINCE, LAST_MODIFIED, LOCATION,
    PRAGMA, USER_AGENT, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, StatusCode, Version};
use tokio::sync::watch;
use vouchsafe_transport::listener::PeerKey;
use vouchsafe_transport::pages::{JSON, Page, Site, TEXT, page};

use super::discovery::Discovery;
use super::hosts::{self, Hosts};
use super::keys::Held;

/// The keys that are served now, for whoever follows them.
pub(crate) type Keys = watch::Receiver<Option<Arc<Held>>>;

/// What the pages are made of.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) hosts: Hosts,
    pub(crate) discovery: Discovery,
    /// Whether a client that came without TLS is told `http` URLs.
    pub(crate) insecure_scheme: bool,
    pub(crate) log_requests: bool,
}

/// The pages of a provider.
pub(crate) struct ProviderSite {
    settings: Settings,
    keys: Keys,
    discovery_path: String,
    keys_path: String,
}

impl ProviderSite {
    pub(crate) fn new(settings: Settings, keys: Keys) -> Self {
        let prefix = &settings.discovery.prefix;
        let discovery_path = prefix.page(".well-known/openid-configuration");
        let keys_path = prefix.page("keys");
        Self { settings, keys, discovery_path, keys_path }
    }

    fn discovery_page(&self, request: &Request<()>) -> Page {
        let host = hosts::requested(request);
        if let Err(error) = self.settings.hosts.check(&host) {
            return refusal(StatusCode::BAD_REQUEST, format!("{error}\n"));
        }
        let insecure = self.settings.insecure_scheme && hosts::scheme(request) != "https";
        let scheme = if insecure { "http" } else { "https" };
        page(StatusCode::OK, JSON, self.settings.discovery.document(scheme, &host))
    }

    fn keys_page(&self, request: &Request<()>) -> Page {
        let Some(held) = self.keys.borrow().clone() else {
            return refusal(StatusCode::INTERNAL_SERVER_ERROR, "document not available\n");
        };
        let Some(document) = held.document.clone() else {
            return refusal(StatusCode::NOT_IMPLEMENTED, "jwt not supported/enabled in this service\n");
        };
        let known = request.headers().get(IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
        let known = known.and_then(|value| httpdate::parse_http_date(value).ok());
        let modified = httpdate::HttpDate::from(held.modified);
        let unchanged = known.is_some_and(|known| modified <= known.into());
        let mut answer = if unchanged {
            page(StatusCode::NOT_MODIFIED, JSON, "")
        } else {
            page(StatusCode::OK, JSON, document)
        };
        if unchanged {
            answer.headers_mut().remove(CONTENT_TYPE);
        }
        put(&mut answer, CACHE_CONTROL, "no-cache, no-store, must-revalidate");
        put(&mut answer, PRAGMA, "no-cache");
        put(&mut answer, EXPIRES, "0");
        put(&mut answer, LAST_MODIFIED, &modified.to_string());
        answer
    }

    fn log(&self, request: &Request<()>) {
        if !self.settings.log_requests {
            return;
        }
        let remote = match request.extensions().get::<PeerKey>() {
            Some(PeerKey::Address(address)) => address.to_string(),
            _ => "@".to_owned(),
        };
        let agent = request.headers().get(USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
        tracing::debug!(
            "remote-addr" = %remote,
            method = %request.method(),
            url = %request.uri(),
            "user-agent" = %agent.unwrap_or_default(),
            "Incoming request"
        );
    }
}

impl Site for ProviderSite {
    fn answer(&self, request: &Request<()>) -> Page {
        self.log(request);
        let named = request.headers().contains_key(HOST) || request.uri().authority().is_some();
        if request.version() == Version::HTTP_11 && !named {
            return page(StatusCode::BAD_REQUEST, TEXT, "400 Bad Request: missing required Host header");
        }
        let path = request.uri().path();
        let clean = clean(path);
        if path.starts_with('/') && clean != path {
            return redirect(&clean, request);
        }
        let is_discovery = path == self.discovery_path;
        if !is_discovery && path != self.keys_path {
            return refusal(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        match (request.method() == Method::GET, is_discovery) {
            (false, _) => refusal(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n"),
            (true, true) => self.discovery_page(request),
            (true, false) => self.keys_page(request),
        }
    }
}

/// A path without empty segments and dots; a slash at the end stays.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let end = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{end}", kept.join("/"))
}

/// Sends a client to the path that it meant: an issuer that is configured with a slash at its end makes two of them.
fn redirect(path: &str, request: &Request<()>) -> Page {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let target = format!("{path}{query}");
    let link = target.replace('&', "&amp;").replace('\'', "&#39;");
    let text = format!("<a href=\"{link}\">Temporary Redirect</a>.\n\n");
    let mut answer = page(StatusCode::TEMPORARY_REDIRECT, "text/html; charset=utf-8", text);
    put(&mut answer, LOCATION, &target);
    answer
}

fn refusal(status: StatusCode, text: impl Into<bytes::Bytes>) -> Page {
    let mut answer = page(status, TEXT, text);
    put(&mut answer, X_CONTENT_TYPE_OPTIONS, "nosniff");
    answer
}

fn put(answer: &mut Page, name: HeaderName, value: &str) {
    // What cannot stand in a header came from no request that was parsed.
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http_body_util::BodyExt;
    use vouchsafe_types::jwk::{Curve, PublicKey};

    use super::super::discovery::Prefix;
    use super::super::keys::Key;
    use super::*;

    fn settings(insecure_scheme: bool) -> Settings {
        Settings {
            hosts: Hosts::new(["localhost".to_owned()]),
            discovery: Discovery::default(),
            insecure_scheme,
            log_requests: true,
        }
    }

    fn site_with(held: Option<Held>) -> ProviderSite {
        ProviderSite::new(settings(false), watch::channel(held.map(Arc::new)).1)
    }

    fn held() -> Held {
        let public = PublicKey::Ec { curve: Curve::P256, x: vec![1; 32], y: vec![2; 32] };
        Held::new(&[Key { id: "k".to_owned(), public }], false, UNIX_EPOCH + Duration::from_millis(1_500))
    }

    fn get(site: &ProviderSite, path: &str, headers: &[(&str, &str)]) -> (u16, String, Page) {
        send(site, Method::GET, path, headers)
    }

    fn send(
        site: &ProviderSite,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (u16, String, Page) {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = site.answer(&request.body(()).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(answer.clone().into_body().collect()).unwrap().to_bytes();
        (answer.status().as_u16(), String::from_utf8(body.to_vec()).unwrap(), answer)
    }

    const DISCOVERY: &str = "/.well-known/openid-configuration";

    #[test]
    fn without_keys_it_says_which_kind_of_nothing_it_has() {
        let (status, body, answer) = get(&site_with(None), "/keys", &[]);
        assert_eq!((status, body.as_str()), (500, "document not available\n"));
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        let none = Held::new(&[], false, UNIX_EPOCH);
        let (status, body, _) = get(&site_with(Some(none)), "/keys", &[]);
        assert_eq!((status, body.as_str()), (501, "jwt not supported/enabled in this service\n"));
    }

    #[test]
    fn keys_are_never_cached_and_go_to_any_host() {
        let (status, body, answer) = get(&site_with(Some(held())), "/keys", &[("x-forwarded-host", "other")]);
        assert!(status == 200 && body.contains("\"kid\": \"k\""), "{body}");
        let header = |name: &str| answer.headers()[name].to_str().unwrap();
        assert_eq!(header("content-type"), "application/json");
        assert_eq!(header("cache-control"), "no-cache, no-store, must-revalidate");
        assert_eq!((header("pragma"), header("expires")), ("no-cache", "0"));
        assert_eq!(header("last-modified"), "Thu, 01 Jan 1970 00:00:01 GMT");
    }

    #[test]
    fn a_client_that_has_the_keys_already_is_told_so() {
        let site = site_with(Some(held()));
        let since = |date: &str| get(&site, "/keys", &[("if-modified-since", date)]);
        let (status, body, answer) = since("Thu, 01 Jan 1970 00:00:01 GMT");
        assert_eq!((status, body.as_str()), (304, ""));
        assert!(!answer.headers().contains_key("content-type"));
        assert_eq!(since("Thu, 01 Jan 1970 00:00:00 GMT").0, 200);
        assert_eq!(since("garbage").0, 200);
    }

    #[test]
    fn the_discovery_document_is_for_configured_hosts_only() {
        let site = site_with(None);
        let (status, body, answer) = get(&site, DISCOVERY, &[]);
        assert!(status == 200 && body.contains("\"issuer\": \"https://localhost\""), "{body}");
        assert_eq!(answer.headers()["content-type"], "application/json");
        let (status, body, _) = get(&site, DISCOVERY, &[("x-forwarded-host", "evil")]);
        assert_eq!((status, body.as_str()), (400, "domain \"evil\" is not allowed\n"));
    }

    #[test]
    fn http_urls_are_told_only_where_allowed_and_where_no_proxy_had_https() {
        let site = ProviderSite::new(settings(true), watch::channel(None).1);
        let issuer = |headers: &[(&str, &str)]| {
            let body = get(&site, DISCOVERY, headers).1;
            serde_json::from_str::<serde_json::Value>(&body).unwrap()["issuer"].as_str().unwrap().to_owned()
        };
        assert_eq!(issuer(&[]), "http://localhost");
        assert_eq!(issuer(&[("x-forwarded-proto", "https")]), "https://localhost");
    }

    #[test]
    fn other_methods_and_paths_are_refused_in_the_same_words() {
        let site = site_with(Some(held()));
        for (method, path) in [(Method::POST, "/keys"), (Method::HEAD, "/keys"), (Method::PUT, DISCOVERY)] {
            let (status, body, _) = send(&site, method, path, &[]);
            assert_eq!((status, body.as_str()), (405, "method not allowed\n"));
        }
        for path in ["/", "/keys/", "/instance/keys", "/ready"] {
            let (status, body, _) = get(&site, path, &[]);
            assert_eq!((status, body.as_str()), (404, "404 page not found\n"), "{path}");
        }
        let nameless = Request::get("/keys").body(()).unwrap();
        assert_eq!(site.answer(&nameless).status(), 400);
    }

    #[test]
    fn paths_with_needless_parts_lead_to_those_without() {
        let site = site_with(Some(held()));
        for (path, location) in
            [("//keys", "/keys"), ("/x/../keys?a&b", "/keys?a&b"), ("/./keys//", "/keys/")]
        {
            let (status, body, answer) = get(&site, path, &[]);
            assert_eq!((status, answer.headers()["location"].to_str().unwrap()), (307, location));
            let link = location.replace('&', "&amp;");
            assert_eq!(body, format!("<a href=\"{link}\">Temporary Redirect</a>.\n\n"));
        }
    }

    #[test]
    fn pages_move_below_the_prefix() {
        let mut settings = settings(false);
        settings.discovery.prefix = Prefix::parse("/instance/1").unwrap();
        let site = ProviderSite::new(settings, watch::channel(Some(Arc::new(held()))).1);
        assert_eq!(get(&site, "/instance/1/keys", &[]).0, 200);
        assert_eq!(get(&site, &format!("/instance/1{DISCOVERY}"), &[]).0, 200);
        assert_eq!(get(&site, "/keys", &[]).0, 404);
    }
}
