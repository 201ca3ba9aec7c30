//! The outermost service of a connection: what happens to every request whatever it asks for.
//!
//! It gives the request its id, holds its head to the limits, calls the router behind it, swaps the
//! real body in, adds the headers of every reply, and keeps the connection in step when a request
//! body was left unread. It knows nothing of S3 but the form of an error document.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, SERVER, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;
use tower_service::Service as _;

use super::ServerOptions;
use super::account::{Account, client_of};
use super::connection_io::Pieces;
use super::head::Refusal;
use super::incoming::{IncomingBody, Leftover};
use super::listener::Peer;
use super::outgoing::Outgoing;
use super::pulse::Pulse;
use super::request_id::{RequestId, host_id};
use crate::error::{Code, Origin, S3Error};
use crate::reply::{FileBody, Noted};

/// How much of an unread request body is read and forgotten to keep the connection, and for how long.
const DRAIN_BYTES: u64 = 256 << 10;
const DRAIN_TIME: Duration = Duration::from_secs(10);

pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
pub(crate) static HOST_ID: HeaderName = HeaderName::from_static("x-amz-id-2");

/// What the server tells the service about a request: an extension of the request.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The id that the reply will carry.
    pub request_id: RequestId,
    /// Did it come over TLS?
    pub tls: bool,
}

/// What all requests of one connection share.
pub(crate) struct Front {
    pub(crate) router: axum::Router,
    pub(crate) options: Arc<ServerOptions>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) peer: Peer,
    pub(crate) tls: bool,
    /// Where this connection can send files itself.
    pub(crate) pieces: Option<Pieces>,
}

impl Front {
    /// Answers one request, or the head that was refused in whose place it stands.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        refusal: Option<Refusal>,
    ) -> Response<Outgoing> {
        let id = RequestId::next();
        let client = client_of(self.peer, request.headers(), &self.options.trusted_proxies);
        let is_head = request.method() == Method::HEAD;
        let method = refusal
            .as_ref()
            .map_or(request.method(), |refusal| &refusal.method);
        let mut account = Account::open(
            self.pulse.clone(),
            Instant::now(),
            id,
            method.clone(),
            client,
        );

        let leftover = Leftover::new(self.pulse.clone());
        let expects_continue = request.headers().contains_key(EXPECT);
        // hyper sends no `100 Continue` where no body follows. botocore takes a final answer without one for
        // the status of the next answer on this connection as well, and then waits for it in vain.
        let expects_in_vain = expects_continue && request.body().is_end_stream();
        let version = request.version();
        let refused = match refusal {
            Some(refusal) => Some(self.turn_away(&refusal, id)),
            None => self.refuse(&request, id),
        };
        let mut response = if let Some(refused) = refused {
            drop(IncomingBody::new(
                request.into_body(),
                self.options.limits.body_idle,
                leftover.clone(),
            ));
            refused
        } else {
            self.call_router(request, id, &leftover).await
        };

        let asks_to_close = response.headers().contains_key(CONNECTION);
        let in_step = self.stay_in_step(&leftover, expects_continue || asks_to_close);
        if version >= Version::HTTP_2 {
            response.headers_mut().remove(CONNECTION); // a stream ends by itself there
        } else if !in_step || expects_in_vain {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        finish_head(&mut response, id);
        account.answered(
            response.status(),
            response
                .extensions_mut()
                .remove::<Noted>()
                .unwrap_or_default(),
        );
        let file = response.extensions_mut().remove::<FileBody>();
        let status = response.status();
        response.map(|body| match file {
            _ if is_head || is_bodiless(status) => Outgoing::empty(account),
            Some(file) => Outgoing::file(file, self.pieces.clone(), account),
            None => Outgoing::axum(body, account),
        })
    }

    /// Answers for a head that was refused before it was a request, of which bytes may still be coming.
    fn turn_away(&self, refusal: &Refusal, id: RequestId) -> Response<axum::body::Body> {
        self.pulse.left_body_unread();
        error_document(&refusal.error, &refusal.method, &refusal.target, id)
    }

    /// What no service is to see: a head that is too large, one that names no host or several, or a body in codings
    /// that nobody here takes off and that a proxy before us may have read otherwise, so that the connection ends
    /// with it.
    fn refuse<B>(&self, request: &Request<B>, id: RequestId) -> Option<Response<axum::body::Body>> {
        let render =
            |error: S3Error| error_document(&error, request.method(), request.uri().path(), id);
        if head_bytes(request) > self.options.limits.header_bytes {
            return Some(render(S3Error::new(Code::RequestHeaderSectionTooLarge)));
        }
        let headers = request.headers();
        if !names_one_host(request) {
            let message = "A request names one host.";
            return Some(render(S3Error::new(Code::BadRequest).message(message)));
        }
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let coding = codings.next()?;
        if codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return None;
        }
        let message = "No transfer coding but one \"chunked\" is implemented.";
        let error = S3Error::new(Code::NotImplemented).message(message);
        Some(render(error.close()))
    }

    async fn call_router(
        &self,
        request: Request<Incoming>,
        id: RequestId,
        leftover: &Leftover,
    ) -> Response<axum::body::Body> {
        let idle = self.options.limits.body_idle;
        let method = request.method().clone();
        let mut request = request.map(|body| {
            if body.is_end_stream() {
                return axum::body::Body::empty();
            }
            axum::body::Body::new(IncomingBody::new(body, idle, leftover.clone()))
        });
        request.extensions_mut().insert(Arrival {
            request_id: id,
            tls: self.tls,
        });
        let answer = pin!(self.router.clone().call(request));
        match catch_panic(answer).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(()) => {
                tracing::error!(request_id = id.as_str(), "a request panicked");
                error_document(&S3Error::new(Code::InternalError), &method, "", id)
            }
        }
    }

    /// Deals with the rest of a request body that the answer did not wait for: a short one is read
    /// beside the response, a long or unknown one ends the connection after it. `must_not_read`: the
    /// client waits for `100 Continue`, which reading would send, or the connection ends anyway. Says
    /// whether the connection may be kept.
    fn stay_in_step(&self, leftover: &Leftover, must_not_read: bool) -> bool {
        let Some(body) = leftover.take() else {
            return true;
        };
        if must_not_read || body.size_hint().lower() > DRAIN_BYTES {
            self.pulse.left_body_unread();
            return false;
        }
        let pulse = self.pulse.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(DRAIN_TIME, drain(body, &pulse)).await {
                Ok(true) => pulse.skipped_body(),
                _ => pulse.left_body_unread(),
            }
        });
        true
    }
}

/// Reads a body and forgets it; says whether its end was reached within the limit.
async fn drain(mut body: Incoming, pulse: &Pulse) -> bool {
    let mut budget = DRAIN_BYTES;
    loop {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await;
        match frame {
            None => return true,
            Some(Err(_)) => return false, // the connection ends by itself
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, bytes::Bytes::len);
                pulse.meter().received(length);
                budget = budget.saturating_sub(length as u64);
                if budget == 0 && !body.is_end_stream() {
                    return false;
                }
            }
        }
    }
}

/// Bytes of the request line and the header fields as HTTP/1.1 writes them.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let fields: usize = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let target = request
        .uri()
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    request.method().as_str().len() + target + " HTTP/1.1\r\n".len() + 1 + fields
}

/// RFC 9112, 3.2: HTTP/1.1 without Host, or anything with two, is refused. HTTP/2 has `:authority` as well.
fn names_one_host<B>(request: &Request<B>) -> bool {
    match request.headers().get_all(HOST).iter().count() {
        0 => request.version() != Version::HTTP_11,
        count => count == 1,
    }
}

fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

/// Sets what every reply has; hyper adds Date.
fn finish_head(response: &mut Response<axum::body::Body>, id: RequestId) {
    let bodiless = is_bodiless(response.status());
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID.clone(), id.header());
    headers.insert(HOST_ID.clone(), HeaderValue::from_static(host_id()));
    headers.insert(SERVER, HeaderValue::from_static("twintree"));
    if bodiless {
        // axum writes `Content-Length: 0` here, which for 304 would speak of the object (RFC 9110, 8.6).
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
    }
}

/// Renders an error that the service behind never saw.
fn error_document(
    error: &S3Error,
    method: &Method,
    resource: &str,
    id: RequestId,
) -> Response<axum::body::Body> {
    let origin = Origin {
        resource,
        request_id: id.as_str(),
        host_id: host_id(),
    };
    let mut response = error
        .to_response(&origin, method)
        .map(axum::body::Body::from);
    response.extensions_mut().insert(Noted {
        failure: Some(error.code().name().to_owned()),
        ..Noted::default()
    });
    response
}

/// Runs a future; a panic in it becomes `Err`, so that it costs one request and not its neighbours
/// on the connection. The future is not touched again after a panic.
async fn catch_panic<F: Future>(mut future: std::pin::Pin<&mut F>) -> Result<F::Output, ()> {
    std::future::poll_fn(|cx| {
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(_panic) => Poll::Ready(Err(())), // the panic hook has printed it
        }
    })
    .await
}
