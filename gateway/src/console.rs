//! The console: one page for people, at `/.twintree/ui/`.
//!
//! It is four files that never change while the daemon runs, and two documents that the page reads: where S3 is
//! (`config.json`) and how the daemon fares (`state.json`). Everything else the page does is S3, signed in the browser
//! with a key that never comes here. The answers let a browser run the page's own scripts and nothing else, and let it
//! speak to this origin and to the S3 listener and to nobody else.

pub(crate) mod cors;
mod state;

use std::sync::Arc;

use axum::body::Body;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::admin::Admin;
use crate::call::Reply;

pub use state::{MountState, SealState, State};

/// Where the page lies.
pub const PLACE: &str = "/.twintree/ui/";

/// The files of the page: name, type, content.
const FILES: [(&str, &str, &str); 8] = [
    ("", HTML, include_str!("console/index.html")),
    ("console.css", CSS, include_str!("console/console.css")),
    (
        "icon.svg",
        "image/svg+xml",
        include_str!("console/icon.svg"),
    ),
    ("app.js", SCRIPT, include_str!("console/app.js")),
    ("s3.js", SCRIPT, include_str!("console/s3.js")),
    ("sigv4.js", SCRIPT, include_str!("console/sigv4.js")),
    ("sha256.js", SCRIPT, include_str!("console/sha256.js")),
    ("show.js", SCRIPT, include_str!("console/show.js")),
];
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// A port of this daemon, and how it is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Is TLS spoken?
    pub tls: bool,
    /// Its number.
    pub number: u16,
}

impl Port {
    fn scheme(self) -> &'static str {
        match self.tls {
            true => "https",
            false => "http",
        }
    }

    /// The origin of this port under a host's name, as browsers write it: without the scheme's own port.
    fn origin(self, name: &str) -> String {
        match (self.tls, self.number) {
            (true, 443) | (false, 80) => format!("{}://{name}", self.scheme()),
            (_, number) => format!("{}://{name}:{number}", self.scheme()),
        }
    }
}

/// What the page is told of the S3 face.
#[derive(Clone, Debug)]
pub struct Pages {
    /// The port that S3 answers on, under the name that the page came from; `None`: the page's own origin.
    pub s3: Option<Port>,
    /// What signatures name.
    pub region: String,
}

/// Where the console is, as the S3 face needs to know it.
#[derive(Clone, Default)]
pub enum Console {
    /// Nowhere: nothing is granted to any page.
    #[default]
    Off,
    /// On other ports, whose pages may read what S3 answers.
    Elsewhere(Vec<Port>),
    /// Here, beside the objects.
    Here(Pages, Arc<dyn Admin>),
}

/// What a path below [`PLACE`] names.
pub(crate) enum Page {
    /// It is answered with this.
    Whole(Response<Body>),
    /// [`State`], as JSON, by [`state_page`].
    State,
}

impl Pages {
    /// Finds the page of a path; `None`: the path is not the console's. `host`: as the client named us.
    pub(crate) fn page(&self, method: &Method, path: &str, host: Option<&str>) -> Option<Page> {
        let name = match path.strip_prefix(PLACE) {
            Some(name) => name,
            None if path == PLACE.trim_end_matches('/') => {
                let mut moved = answer(
                    StatusCode::PERMANENT_REDIRECT,
                    TEXT,
                    "it is at /.twintree/ui/\n".to_owned(),
                );
                moved
                    .headers_mut()
                    .insert(LOCATION, HeaderValue::from_static(PLACE));
                return Some(Page::Whole(moved));
            }
            None => return None,
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            let text = "this page is only read\n".to_owned();
            let mut refused = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
            refused
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Some(Page::Whole(refused));
        }
        if name == "state.json" {
            return Some(Page::State);
        }
        let mut whole = match FILES.iter().find(|(file, ..)| *file == name) {
            Some((_, kind, text)) => answer(StatusCode::OK, kind, *text),
            None if name == "config.json" => answer(StatusCode::OK, JSON, self.config()),
            None => answer(StatusCode::NOT_FOUND, TEXT, "no such page\n"),
        };
        let s3 = self.s3.zip(host.and_then(host_name));
        let s3 = s3.map(|(port, name)| port.origin(name));
        whole
            .headers_mut()
            .insert(CONTENT_SECURITY_POLICY, policy(s3.as_deref()));
        Some(Page::Whole(whole))
    }

    /// Where S3 is.
    fn config(&self) -> String {
        let region = state::text(&self.region);
        match self.s3 {
            Some(port) => format!(
                "{{\"scheme\":\"{}\",\"port\":{},\"region\":{region}}}",
                port.scheme(),
                port.number
            ),
            None => format!("{{\"region\":{region}}}"),
        }
    }
}

/// Writes how the daemon fares.
pub(crate) fn state_page(state: &State) -> Response<Body> {
    answer(StatusCode::OK, JSON, state.json())
}

/// The same as a reply of the S3 face.
pub(crate) fn state_reply(state: &State) -> Reply {
    let (head, _) = answer(StatusCode::OK, JSON, Body::empty()).into_parts();
    Response::from_parts(head, state.json().into())
}

/// Takes an object's page its scripts, and the origin that it would share with the console: whoever may PUT could
/// otherwise speak for who is signed in there.
pub(crate) fn confine(headers: &mut HeaderMap) {
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// What a browser may do with the page: run and style it from here, show pictures that its script made, speak to
/// this origin and to `s3`.
fn policy(s3: Option<&str>) -> HeaderValue {
    let s3 = s3.map(|origin| format!(" {origin}")).unwrap_or_default();
    let text = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'{s3}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&text).expect("a host's name is visible ASCII")
}

/// The name in a `Host`, without its port; `None` where it is none, so that nobody writes words of a policy with it.
pub(crate) fn host_name(host: &str) -> Option<&str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_address = name.starts_with('[') && name.ends_with(']');
    let bare = if is_address {
        &name[1..name.len() - 1]
    } else {
        name
    };
    let is_plain = |byte: u8| {
        byte.is_ascii_alphanumeric() || b"-._".contains(&byte) || (is_address && byte == b':')
    };
    (!bare.is_empty() && bare.bytes().all(is_plain)).then_some(name)
}

fn answer(status: StatusCode, kind: &'static str, text: impl Into<Body>) -> Response<Body> {
    let mut page = Response::new(text.into());
    *page.status_mut() = status;
    let headers = page.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (RESOURCE_POLICY, "same-origin"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    page
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn pages(s3: Option<Port>) -> Pages {
        Pages {
            s3,
            region: "eu-\"1\"".to_owned(),
        }
    }

    const S3: Port = Port {
        tls: false,
        number: 9000,
    };

    fn whole(pages: &Pages, method: &Method, path: &str, host: &str) -> Response<Body> {
        match pages.page(method, path, Some(host)).expect(path) {
            Page::Whole(answer) => answer,
            Page::State => panic!("{path} is the state"),
        }
    }

    fn csp(answer: &Response<Body>) -> &str {
        let policy = &answer.headers()[CONTENT_SECURITY_POLICY];
        policy.to_str().expect("visible ASCII")
    }

    async fn text(answer: Response<Body>) -> String {
        let body = answer.into_body().collect().await.expect("a body");
        String::from_utf8_lossy(&body.to_bytes()).into_owned()
    }

    #[tokio::test]
    async fn every_file_of_the_page_is_served_under_a_policy_of_its_own() {
        let pages = pages(Some(S3));
        for (name, kind, content) in FILES {
            let got = whole(
                &pages,
                &Method::GET,
                &format!("{PLACE}{name}"),
                "nas.test:9001",
            );
            assert_eq!(
                (got.status(), &got.headers()[CONTENT_TYPE]),
                (StatusCode::OK, &HeaderValue::from_static(kind))
            );
            for (header, value) in [
                (X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (REFERRER_POLICY, "no-referrer"),
                (X_FRAME_OPTIONS, "DENY"),
                (CACHE_CONTROL, "no-store"),
            ] {
                assert_eq!(got.headers()[&header], value, "{name}");
            }
            assert_eq!(
                csp(&got),
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self' \
                 http://nas.test:9000; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            );
            assert_eq!(text(got).await, content);
        }
    }

    #[test]
    fn the_policy_names_the_s3_port_under_the_name_that_the_page_came_from() {
        let secured = pages(Some(Port {
            tls: true,
            number: 443,
        }));
        for (pages, host, origin) in [
            (&pages(Some(S3)), "10.0.0.7:9001", " http://10.0.0.7:9000"),
            (&pages(Some(S3)), "[::1]:9001", " http://[::1]:9000"),
            (&secured, "nas.test", " https://nas.test"),
            (&pages(None), "nas.test", ""),
        ] {
            let got = whole(pages, &Method::GET, PLACE, host);
            assert!(
                csp(&got).contains(&format!("connect-src 'self'{origin}; ")),
                "{}",
                csp(&got)
            );
        }
    }

    #[test]
    fn a_host_that_is_no_name_writes_no_word_of_the_policy() {
        for host in [
            "nas.test; script-src *",
            "*",
            "a b",
            "",
            ":9001",
            "nas/x",
            "[::1",
            "x:y:1",
            "'self'",
        ] {
            let got = whole(&pages(Some(S3)), &Method::GET, PLACE, host);
            assert!(
                csp(&got).contains("connect-src 'self'; "),
                "{host}: {}",
                csp(&got)
            );
        }
    }

    #[tokio::test]
    async fn the_page_is_told_where_s3_is_and_nothing_that_is_secret() {
        let config = format!("{PLACE}config.json");
        let got = whole(&pages(Some(S3)), &Method::GET, &config, "h");
        assert_eq!(got.headers()[CONTENT_TYPE], JSON);
        assert_eq!(
            text(got).await,
            r#"{"scheme":"http","port":9000,"region":"eu-\"1\""}"#
        );
        let here = whole(&pages(None), &Method::GET, &config, "h");
        assert_eq!(text(here).await, r#"{"region":"eu-\"1\""}"#);
    }

    #[test]
    fn what_is_not_the_consoles_is_left_alone_and_what_is_is_only_read() {
        let pages = pages(None);
        for path in [
            "/",
            "/.twintree",
            "/.twintree/",
            "/.twintree/uix",
            "/.twintree/x",
            "/b/.twintree/ui/",
        ] {
            assert!(pages.page(&Method::GET, path, None).is_none(), "{path}");
        }
        let moved = whole(&pages, &Method::GET, "/.twintree/ui", "h");
        assert_eq!(
            (moved.status().as_u16(), &moved.headers()[LOCATION]),
            (308, &HeaderValue::from_static(PLACE))
        );
        for path in ["x", "../ui/", "index.html", "%61pp.js", "app.js/"] {
            assert_eq!(
                whole(&pages, &Method::GET, &format!("{PLACE}{path}"), "h").status(),
                404,
                "{path}"
            );
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert_eq!(whole(&pages, &method, PLACE, "h").status(), 405);
        }
    }

    /// What a browser would fetch elsewhere, or run though nobody wrote it down, or take for markup, is in no file.
    #[test]
    fn no_file_names_another_place_or_makes_markup_of_text() {
        for (name, _, text) in FILES {
            for word in [
                "//cdn",
                "https://",
                "innerHTML",
                "outerHTML",
                "insertAdjacent",
                "document.write",
                "eval(",
                "new Function",
                "localStorage",
                "sessionStorage",
                "document.cookie",
            ] {
                assert!(!text.contains(word), "{name} has {word}");
            }
        }
        let (_, _, html) = FILES[0];
        for word in ["onclick", "style=", "<style", "javascript:", "<script>"] {
            assert!(!html.contains(word), "{word}");
        }
    }
}
