//! From a request to its reply: parse, route, verify the signature, perform, render.
//!
//! The one axum handler stands here. What must happen to every request whatever it asks for (ids, limits,
//! keeping the connection in step) is done outside, by the server; what one operation does, inside, by `ops`.

use std::sync::Arc;

use axum::body::Body;
use http::header::HOST;
use http::{Request, Response};
use twintree_store::Timestamp;

use crate::auth::{self, Head, Plus, Verified};
use crate::body::RequestBody;
use crate::call::{Call, Gateway, Reply, blocking};
use crate::console::{self, Console, Page, Pages, cors};
use crate::error::{Code, Origin, S3Error};
use crate::ops;
use crate::reply::{Noted, ReplyBody, SentBy, into_axum};
use crate::route::{self, Operation, Query, Route};
use crate::server::{Arrival, Express, RequestId, Service, host_id};

/// The S3 face as the one service behind the server: a raw fallback, no path parameters.
pub fn router(gateway: Arc<Gateway>) -> axum::Router {
    axum::Router::new().fallback(move |request: Request<Body>| {
        let gateway = Arc::clone(&gateway);
        async move { answer_browser_and_all(gateway, request).await }
    })
}

/// The S3 face with its express way, which `TWINTREE_EXPRESS=off` closes. Beside the console's page it is closed as well:
/// every answer there tells browsers more than it does.
pub fn service(gateway: Arc<Gateway>) -> Service {
    let is_open = std::env::var_os("TWINTREE_EXPRESS").is_none_or(|said| said != "off")
        && !matches!(gateway.console, Console::Here(..));
    Service {
        express: is_open.then(|| Arc::clone(&gateway) as Arc<dyn Express>),
        router: router(gateway),
    }
}

/// Answers one request, and tells browsers what they may do with the answer.
async fn answer_browser_and_all(gateway: Arc<Gateway>, request: Request<Body>) -> Response<Body> {
    if matches!(gateway.console, Console::Off) {
        return into_axum(answer(gateway, request).await);
    }
    let (parts, body) = request.into_parts();
    let granted = cors::granted(&gateway.console, &parts);
    let is_beside = matches!(gateway.console, Console::Here(..));
    if let Console::Here(pages, _) = &gateway.console
        && let Some(Page::Whole(page)) = console_page(&gateway, pages, &parts)
    {
        return page;
    }
    let mut reply = into_axum(answer(gateway, Request::from_parts(parts, body)).await);
    if let Some(origin) = granted {
        cors::grant(reply.headers_mut(), origin);
    }
    if is_beside {
        console::confine(reply.headers_mut());
    }
    reply
}

/// Finds what of the console a request asks for, where its host names no bucket.
fn console_page(gateway: &Gateway, pages: &Pages, parts: &http::request::Parts) -> Option<Page> {
    if route::names_bucket_by_host(parts, &gateway.settings.domains) {
        return None;
    }
    pages.page(&parts.method, parts.uri.path(), route::named_host(parts))
}

/// Answers one request; every failure becomes its document here, and only here.
async fn answer(gateway: Arc<Gateway>, request: Request<Body>) -> Reply {
    let (mut parts, wire) = request.into_parts();
    let request_id = match parts.extensions.remove::<Arrival>() {
        Some(arrival) => arrival.request_id,
        None => RequestId::next(),
    };
    let method = parts.method.clone();
    let path = parts.uri.path().to_owned();
    let mut noted = Noted::default();
    let result = handle(gateway, parts, wire, request_id.as_str(), &mut noted).await;
    let mut reply = result.unwrap_or_else(|error| {
        noted.failure = Some(describe(&error));
        let resource = route::percent_decode(&path).unwrap_or(path);
        let origin = Origin {
            resource: &resource,
            request_id: request_id.as_str(),
            host_id: host_id(),
        };
        error.to_response(&origin, &method).map(ReplyBody::Bytes)
    });
    if let Some(way) = reply.extensions_mut().remove::<SentBy>() {
        noted.sent_by = way;
    }
    reply.extensions_mut().insert(noted);
    reply
}

/// What the log says of a failure: the code; for the server's own failures the cause, too.
pub(crate) fn describe(error: &S3Error) -> String {
    if error.status().is_server_error() && error.code() != Code::NotImplemented {
        return error.to_string();
    }
    error.code().name().to_owned()
}

async fn handle(
    gateway: Arc<Gateway>,
    mut parts: http::request::Parts,
    wire: Body,
    request_id: &str,
    noted: &mut Noted,
) -> Result<Reply, S3Error> {
    let mut query = Query::parse(parts.uri.query().unwrap_or(""))?;
    if let Console::Here(pages, admin) = &gateway.console
        && let Some(Page::State) = console_page(&gateway, pages, &parts)
    {
        noted.principal = Some(verify(&gateway, &parts, None)?.principal);
        let admin = Arc::clone(admin);
        let state = blocking(move || Ok(admin.state())).await?;
        return Ok(console::state_reply(&state));
    }
    let route = route::route(&parts, &query, &gateway.settings.domains)?;
    noted.operation = route.operation.name();
    noted.bucket.clone_from(&route.bucket);
    noted.key.clone_from(&route.key);
    match route.operation {
        // Neither is signed in its head: a preflight never is, a form carries its signature in the body.
        Operation::Preflight => return preflight(&gateway.console, &parts),
        Operation::PostObject => return Err(ops::refuse_form(&parts)),
        _ => {}
    }
    let Verified {
        principal,
        payload,
        scheme,
        plus,
    } = verify(&gateway, &parts, virtual_bucket(&route))?;
    noted.principal = Some(principal.clone());
    if plus == Plus::Plus {
        // The signer meant a plus: read as a space, `%2B` could be changed on its way into another parameter.
        query = Query::parse_as(query.raw(), plus)?;
    }
    auth::hoist(&mut parts, scheme, plus);
    let request_id = request_id.to_owned();
    let call = Call {
        gateway,
        parts,
        query,
        principal,
        request_id,
    };
    ops::dispatch(&call, route, RequestBody::new(wire, payload)).await
}

fn verify(
    gateway: &Gateway,
    parts: &http::request::Parts,
    virtual_bucket: Option<&str>,
) -> Result<Verified, S3Error> {
    let head = Head {
        method: &parts.method,
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: (&parts.headers).into(),
        authority: parts.uri.authority().map(http::uri::Authority::as_str),
        virtual_bucket,
    };
    auth::verify(&head, &gateway.credentials, Timestamp::now())
}

/// The bucket that the host names.
fn virtual_bucket(route: &Route) -> Option<&str> {
    let bucket = route.bucket.as_ref().filter(|_| route.virtual_host);
    bucket.map(|bucket| bucket.as_str())
}

/// No bucket has a CORS configuration yet, so no preflight is granted but the console's.
fn preflight(
    console: &Console,
    parts: &http::request::Parts,
) -> Result<Response<ReplyBody>, S3Error> {
    let origin = cors::granted(console, parts);
    if let Some(headers) = origin.and_then(|origin| cors::preflight(parts, origin)) {
        let mut reply = Response::new(ReplyBody::Empty);
        *reply.headers_mut() = headers;
        return Ok(reply);
    }
    if !parts.headers.contains_key("origin") {
        return Err(S3Error::new(Code::BadRequest)
            .message("Insufficient information. Origin request header needed."));
    }
    let host = parts
        .headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or("");
    Err(S3Error::new(Code::AccessForbidden)
        .with("ResourceType", "BUCKET")
        .with("Host", host))
}
