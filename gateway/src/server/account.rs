//! The account of one request: who asked, what was answered, and the one line that the log gets.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderMap;
use http::{Method, StatusCode};
use tokio::time::Instant;
use twintree_store::{BucketName, ObjectKey};

use super::listener::Peer;
use super::pulse::Pulse;
use super::request_id::RequestId;
use crate::meter::Ended;
use crate::reply::{Noted, SentBy};

/// 499, as nginx has it: the client left before there was an answer.
fn no_answer() -> StatusCode {
    StatusCode::from_u16(499).expect("499 is three digits")
}

/// One request's account. Dropping it ends the request: the pulse learns it and the line is written.
pub(crate) struct Account {
    pulse: Arc<Pulse>,
    started: Instant,
    id: RequestId,
    method: Method,
    client: Client,
    status: StatusCode,
    noted: Noted,
    bytes: u64,
    hops: u32,
    error: Option<String>,
    /// All of the answer was handed over.
    whole: bool,
    /// Bytes that wait until the client takes them (HTTP/2).
    offer: Option<u64>,
}

/// Where the request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// This address: the peer's, or the one that a listed proxy names.
    Address(IpAddr),
    /// Some process on this machine.
    Local,
}

impl Account {
    /// Opens the account of a request whose head was complete at `started`.
    pub(crate) fn open(
        pulse: Arc<Pulse>,
        started: Instant,
        id: RequestId,
        method: Method,
        client: Client,
    ) -> Self {
        pulse.request_started();
        Self {
            pulse,
            started,
            id,
            method,
            client,
            status: no_answer(),
            noted: Noted::default(),
            bytes: 0,
            hops: 0,
            error: None,
            whole: false,
            offer: None,
        }
    }

    /// Notes the answer.
    pub(crate) fn answered(&mut self, status: StatusCode, noted: Noted) {
        self.status = status;
        self.noted = noted;
    }

    /// Notes bytes of the request's body.
    pub(crate) fn took_in(&self, bytes: usize) {
        self.pulse.meter().received(bytes);
    }

    /// Notes how a file is sent.
    pub(crate) fn sent_by(&mut self, way: SentBy) {
        self.noted.sent_by = way;
    }

    /// Notes a hop to the blocking pool.
    pub(crate) fn hopped(&mut self) {
        self.hops += 1;
        if self.noted.sent_by == SentBy::Nowait {
            self.noted.sent_by = SentBy::Blocking;
        }
    }

    /// Notes bytes handed to the connection.
    pub(crate) fn handed_over(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.offer(bytes);
    }

    /// Notes that nothing goes on until the client takes what the connection has of the body.
    pub(crate) fn offer(&mut self, bytes: u64) {
        if self.pulse.is_multiplexed() {
            self.pulse.offers(bytes);
            self.offer = Some(bytes);
        }
    }

    /// Notes that it has.
    pub(crate) fn taken(&mut self) {
        if let Some(bytes) = self.offer.take() {
            self.pulse.offer_ended(bytes);
        }
    }

    /// Notes why the response is cut.
    pub(crate) fn failed(&mut self, error: &io::Error) {
        self.error = Some(error.to_string());
    }

    /// Notes that the answer was handed over to its end.
    pub(crate) fn whole(&mut self) {
        self.whole = true;
    }

    /// Did the answer end before its end?
    fn is_cut(&self) -> bool {
        !self.whole && self.status != no_answer()
    }

    fn write_line(&self, took: Duration) {
        let Noted {
            operation,
            bucket,
            key,
            principal,
            sent_by,
            failure,
        } = &self.noted;
        let cut = "the client left before the end";
        let error = self.error.as_deref().or(failure.as_deref());
        macro_rules! line {
            ($level:ident, $text:literal) => {
                tracing::$level!(
                    target: "twintree::request",
                    request_id = self.id.as_str(),
                    client = %self.client,
                    method = %self.method,
                    operation,
                    bucket = bucket.as_ref().map_or("", BucketName::as_str),
                    key = key.as_ref().map_or("", ObjectKey::as_str),
                    access_key = principal.as_ref().map_or("", |p| p.access_key_id.as_str()),
                    status = self.status.as_u16(),
                    bytes = self.bytes,
                    ms = took.as_micros() as f64 / 1e3,
                    path = sent_by.as_str(),
                    hops = self.hops,
                    error = error.or(self.is_cut().then_some(cut)),
                    $text
                )
            };
        }
        // 501 is a client's mistake, 503 and 507 are the disk's: someone should look; 500 is ours.
        match self.status.as_u16() {
            _ if self.error.is_some() => line!(warn, "response cut"),
            _ if self.pulse.is_quiet() => line!(debug, "request"),
            500 => line!(error, "request"),
            502.. => line!(warn, "request"),
            _ => line!(info, "request"),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.taken();
        let now = Instant::now();
        self.pulse.request_ended(now);
        let took = now.duration_since(self.started);
        self.pulse.meter().ended(&Ended {
            operation: self.noted.operation,
            status: self.status.as_u16(),
            took,
            sent: self.bytes,
            cut: self.is_cut(),
        });
        if tracing::enabled!(target: "twintree::request", tracing::Level::WARN) {
            self.write_line(took);
        }
    }
}

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Local => f.write_str("local"),
        }
    }
}

/// Says who asked: the peer; or, where the peer is a listed proxy, the last address of
/// `X-Forwarded-For` that is not itself one. For the log only: nothing is decided by it.
pub(crate) fn client_of(peer: Peer, headers: &HeaderMap, trusted: &[IpAddr]) -> Client {
    let Peer::Tcp(address) = peer else {
        return Client::Local;
    };
    // An IPv4 client of a dual-stack socket shows as ::ffff:a.b.c.d.
    let peer = address.ip().to_canonical();
    if !trusted.contains(&peer) {
        return Client::Address(peer);
    }
    let forwarded = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = forwarded
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let named = hops
        .iter()
        .rev()
        .map(|hop| hop.parse::<IpAddr>().map(|ip| ip.to_canonical()));
    // An entry that is no address ends what can be believed.
    let believed = named.take_while(Result::is_ok).flatten();
    let mut nearest = peer;
    for address in believed {
        nearest = address;
        if !trusted.contains(&address) {
            break;
        }
    }
    Client::Address(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listed_proxy_is_believed_and_only_as_far_as_proxies_are_listed() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let peer = |text: &str| Peer::Tcp((ip(text), 1).into());
        let trusted = [ip("10.0.0.1"), ip("10.0.0.2")];
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", value.parse().expect("a header value"));
            headers
        };
        let says = |from: &str, header: &str| client_of(peer(from), &with(header), &trusted);
        assert_eq!(says("10.0.0.9", "1.2.3.4"), Client::Address(ip("10.0.0.9")));
        assert_eq!(says("10.0.0.1", "1.2.3.4"), Client::Address(ip("1.2.3.4")));
        assert_eq!(
            says("::ffff:10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2"),
            Client::Address(ip("1.2.3.4"))
        );
        assert_eq!(
            says("10.0.0.1", "1.2.3.4, unknown"),
            Client::Address(ip("10.0.0.1"))
        );
        assert_eq!(
            client_of(Peer::Unix, &with("1.2.3.4"), &trusted),
            Client::Local
        );
    }
}
