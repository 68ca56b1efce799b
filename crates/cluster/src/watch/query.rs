//! The questions that a follower asks an API server.

use std::fmt::Write as _;
use std::time::Duration;

use http::Request;
use http::header::ACCEPT;

use super::Selection;
use crate::kind::Kind;
use crate::version::ResourceVersion;

/// One question about the objects of a selection.
pub(crate) enum Query<'a> {
    /// A watch that begins with the list as it is now.
    Stream { lasts: Duration },
    /// A watch from a position on.
    Resume { from: &'a ResourceVersion, lasts: Duration },
    /// A page of the list as it is now, or of the list that `token` continues.
    Page { limit: u32, token: Option<&'a str> },
    /// The metadata of the next object of the list that `token` continues.
    Head { token: Option<&'a str> },
}

impl Query<'_> {
    pub(crate) fn request<K: Kind>(&self, selection: &Selection) -> Result<Request<Vec<u8>>, http::Error> {
        let mut uri = K::url_path(&(), selection.namespace.as_deref());
        let (resource, is_watch) = match self {
            Self::Stream { lasts } => {
                // No version: as things are when the question is asked, not as some cache remembers them.
                uri +=
                    "?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=";
                push(&mut uri, "timeoutSeconds", &lasts.as_secs().to_string());
                ("PartialObjectMetadata", true)
            }
            Self::Resume { from, lasts } => {
                uri += "?watch=true";
                push(&mut uri, "resourceVersion", from.as_str());
                push(&mut uri, "timeoutSeconds", &lasts.as_secs().to_string());
                ("PartialObjectMetadata", true)
            }
            Self::Page { limit, token } => {
                push_page(&mut uri, *limit, *token);
                ("PartialObjectMetadataList", false)
            }
            Self::Head { token } => {
                push_page(&mut uri, 1, *token);
                ("PartialObjectMetadataList", false)
            }
        };
        if is_watch {
            push(&mut uri, "allowWatchBookmarks", "true");
        }
        if let Some(labels) = &selection.labels {
            push(&mut uri, "labelSelector", labels);
        }
        if let Some(fields) = &selection.fields {
            push(&mut uri, "fieldSelector", fields);
        }
        let media = if K::metadata_api() || matches!(self, Self::Head { .. }) {
            format!("application/json;as={resource};g=meta.k8s.io;v=v1")
        } else {
            "application/json".into()
        };
        Request::get(uri).header(ACCEPT, media).body(Vec::new())
    }
}

fn push_page(uri: &mut String, limit: u32, token: Option<&str>) {
    uri.push('?');
    push(uri, "limit", &limit.to_string());
    if let Some(token) = token {
        push(uri, "continue", token);
    }
}

fn push(uri: &mut String, key: &str, value: &str) {
    if !uri.ends_with('?') {
        uri.push('&');
    }
    uri.push_str(key);
    uri.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            write!(uri, "%{byte:02X}").ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::core::PartialObjectMeta;

    use super::*;

    const LASTS: Duration = Duration::from_secs(300);

    #[test]
    fn questions_are_as_the_api_server_takes_them() {
        let selection = Selection::namespace("a").with_labels("x=1,y!=2").with_fields("spec.nodeName=n");
        let version = ResourceVersion::parse("77").unwrap();
        let check = |query: Query<'_>, uri: &str| {
            assert_eq!(query.request::<Pod>(&selection).unwrap().uri().to_string(), uri);
        };
        let tail = "labelSelector=x%3D1%2Cy%21%3D2&fieldSelector=spec.nodeName%3Dn";
        let path = "/api/v1/namespaces/a/pods";
        check(
            Query::Stream { lasts: LASTS },
            &format!(
                "{path}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=&timeoutSeconds=300&allowWatchBookmarks=true&{tail}"
            ),
        );
        check(
            Query::Resume { from: &version, lasts: LASTS },
            &format!(
                "{path}?watch=true&resourceVersion=77&timeoutSeconds=300&allowWatchBookmarks=true&{tail}"
            ),
        );
        check(Query::Page { limit: 500, token: None }, &format!("{path}?limit=500&{tail}"));
        check(
            Query::Page { limit: 1, token: Some("a+b=") },
            &format!("{path}?limit=1&continue=a%2Bb%3D&{tail}"),
        );
    }

    #[test]
    fn metadata_alone_is_asked_for_by_media_type() {
        let accept = |query: Query<'_>| {
            let request = query.request::<PartialObjectMeta<Pod>>(&Selection::all()).unwrap();
            request.headers()[ACCEPT].to_str().unwrap().to_owned()
        };
        let media = |kind: &str| format!("application/json;as={kind};g=meta.k8s.io;v=v1");
        assert_eq!(accept(Query::Stream { lasts: LASTS }), media("PartialObjectMetadata"));
        assert_eq!(accept(Query::Page { limit: 1, token: None }), media("PartialObjectMetadataList"));
    }
}
