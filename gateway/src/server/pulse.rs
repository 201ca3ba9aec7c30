//! The pulse of one connection: what it waits for, and since when.
//!
//! The socket and the service write it with a few relaxed stores; one lazily re-armed timer per
//! connection reads it. So timeouts cost no timer work per request, and idle, slow-head and
//! slow-reader connections each have their own limit (hyper's header timer knows only one).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::ServerOptions;
use super::limits::Limits;
use super::pages::CHUNK;
use crate::meter::Meter;

/// A client that reads slowly shows that it reads only when it has taken a whole run: for so many bytes that wait for
/// it, it has its limit once more, up to the length of a run.
const PATIENCE_STEP: u64 = 64 << 10;

/// Times are milliseconds since `born` plus one; 0 means "not so".
#[derive(Debug)]
pub(crate) struct Pulse {
    /// Where its requests are counted.
    meter: Arc<Meter>,
    /// Its requests are no news.
    quiet: bool,
    born: Instant,
    /// HTTP/2: frames arrive without requests, so there is no head to wait for.
    multiplexed: AtomicBool,
    in_flight: AtomicUsize,
    idle_since: AtomicU64,
    head_since: AtomicU64,
    /// Bytes of a head have come, and not yet all of it.
    within_head: AtomicBool,
    blocked_since: AtomicU64,
    unread_body: AtomicBool,
    /// HTTP/2: how many answers wait until the client takes what they offer, how many bytes, and since when.
    offers: AtomicUsize,
    offered_bytes: AtomicU64,
    offered_since: AtomicU64,
}

impl Pulse {
    /// Starts with a connection that owes us the head of its first request.
    pub(crate) fn new(options: &ServerOptions) -> Self {
        Self {
            meter: Arc::clone(&options.meter),
            quiet: options.quiet,
            born: Instant::now(),
            multiplexed: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(1),
            within_head: AtomicBool::new(false),
            blocked_since: AtomicU64::new(0),
            unread_body: AtomicBool::new(false),
            offers: AtomicUsize::new(0),
            offered_bytes: AtomicU64::new(0),
            offered_since: AtomicU64::new(0),
        }
    }

    /// Where its requests are counted.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Says whether its requests are no news for the log.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    fn at(&self, moment: Instant) -> u64 {
        u64::try_from(moment.duration_since(self.born).as_millis())
            .expect("no connection lives 500 million years")
            + 1
    }

    /// Notes that what came so far was TLS's own, and no head.
    pub(crate) fn handshake_ended(&self) {
        self.within_head.store(false, Relaxed);
    }

    /// Notes that HTTP/2 was negotiated.
    pub(crate) fn multiplex(&self) {
        self.multiplexed.store(true, Relaxed);
        self.head_since.store(0, Relaxed);
    }

    /// Notes that bytes arrived.
    pub(crate) fn received(&self) {
        let between_requests = self.in_flight.load(Relaxed) == 0 && !self.multiplexed.load(Relaxed);
        if between_requests {
            self.within_head.store(true, Relaxed);
            if self.head_since.load(Relaxed) == 0 {
                self.head_since.store(self.now(), Relaxed);
            }
        }
    }

    /// Notes that the head of a request is complete.
    pub(crate) fn request_started(&self) {
        self.meter.started();
        self.in_flight.fetch_add(1, Relaxed);
        self.head_since.store(0, Relaxed);
        self.within_head.store(false, Relaxed);
    }

    /// Notes that a response was handed over whole, or given up, just `now`.
    pub(crate) fn request_ended(&self, now: Instant) {
        self.idle_since.store(self.at(now), Relaxed);
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Notes that the peer takes no bytes.
    pub(crate) fn write_blocked(&self) {
        if self.blocked_since.load(Relaxed) == 0 {
            self.blocked_since.store(self.now(), Relaxed);
        }
    }

    /// Notes that the peer took bytes.
    pub(crate) fn write_progressed(&self) {
        if self.blocked_since.load(Relaxed) != 0 {
            self.blocked_since.store(0, Relaxed);
            self.idle_since.store(self.now(), Relaxed);
        }
    }

    /// Notes that an answer waits until the client has taken `bytes` of it: the socket does not show that in
    /// HTTP/2, where a client may open no window and go on talking.
    pub(crate) fn offers(&self, bytes: u64) {
        self.offered_since.store(self.now(), Relaxed);
        self.offered_bytes.fetch_add(bytes, Relaxed);
        self.offers.fetch_add(1, Relaxed);
    }

    /// Notes that it has, or that the answer was given up.
    pub(crate) fn offer_ended(&self, bytes: u64) {
        self.offered_since.store(self.now(), Relaxed);
        self.offered_bytes.fetch_sub(bytes, Relaxed);
        self.offers.fetch_sub(1, Relaxed);
    }

    /// Notes that a request was answered before its body was read to the end.
    pub(crate) fn left_body_unread(&self) {
        self.unread_body.store(true, Relaxed);
    }

    /// Notes that the rest of an answered request's body has come: it was no head.
    pub(crate) fn skipped_body(&self) {
        self.idle_since.store(self.now(), Relaxed);
        self.head_since.store(0, Relaxed);
        self.within_head.store(false, Relaxed);
    }

    /// Is no request in flight?
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.load(Relaxed) == 0
    }

    /// Is a head awaited: the first of the connection, or the rest of one of which bytes have come?
    pub(crate) fn owes_head(&self) -> bool {
        self.is_idle() && self.head_since.load(Relaxed) != 0
    }

    /// Says whether HTTP/2 is spoken.
    pub(crate) fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Relaxed)
    }

    /// Says whether bytes of a request may still be coming that nobody will read: of a body, or of a head that was
    /// refused before its end.
    pub(crate) fn leaves_unread(&self) -> bool {
        self.unread_body.load(Relaxed) || self.within_head.load(Relaxed)
    }

    fn patience(&self) -> u32 {
        let bytes = self.offered_bytes.load(Relaxed).min(CHUNK as u64);
        1 + u32::try_from(bytes / PATIENCE_STEP).expect("a run is a few steps")
    }

    /// Says when to look again; `None` when the connection's time is up.
    pub(crate) fn next_look(&self, limits: &Limits) -> Option<Instant> {
        let blocked = self.blocked_since.load(Relaxed);
        let head = self.head_since.load(Relaxed);
        let in_flight = self.in_flight.load(Relaxed);
        let now = Instant::now();
        // A shorter limit may begin to run meanwhile: never sleep past the shortest. A limit of zero must not spin.
        let shortest = limits
            .body_idle
            .min(limits.keep_alive_idle)
            .min(limits.header_timeout);
        let by_then = now + shortest.max(Duration::from_millis(10));
        let (since, limit) = if blocked != 0 {
            (blocked, limits.body_idle)
        } else if in_flight > 0 && self.offers.load(Relaxed) == in_flight {
            (
                self.offered_since.load(Relaxed),
                limits.body_idle.saturating_mul(self.patience()),
            )
        } else if in_flight > 0 {
            return Some(by_then);
        } else if head != 0 {
            (head, limits.header_timeout)
        } else {
            (self.idle_since.load(Relaxed), limits.keep_alive_idle)
        };
        let due = self.born + Duration::from_millis(since - 1) + limit;
        (due > now).then(|| due.min(by_then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            header_timeout: Duration::from_secs(3),
            body_idle: Duration::from_secs(5),
            keep_alive_idle: Duration::from_secs(60),
            ..Limits::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_has_the_header_timeout_first_and_the_idle_time_after_a_request() {
        let pulse = Pulse::new(&ServerOptions::default());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(pulse.next_look(&limits()).is_some());
        pulse.received(); // a byte of a slow head does not extend the limit
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(pulse.next_look(&limits()).is_none());

        pulse.request_started();
        assert!(pulse.next_look(&limits()).is_some());
        pulse.request_ended(Instant::now());
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(pulse.next_look(&limits()).is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(pulse.next_look(&limits()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_computes_has_no_limit_but_a_reader_that_takes_nothing_has() {
        let pulse = Pulse::new(&ServerOptions::default());
        pulse.request_started();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(pulse.next_look(&limits()).is_some());
        pulse.write_blocked();
        tokio::time::advance(Duration::from_secs(4)).await;
        pulse.write_progressed();
        pulse.write_blocked();
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(
            pulse.next_look(&limits()).is_some(),
            "progress starts the limit anew"
        );
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(pulse.next_look(&limits()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_http2_client_that_takes_no_byte_of_its_answers_has_a_limit_and_a_slow_one_more() {
        let pulse = Pulse::new(&ServerOptions::default());
        pulse.multiplex();
        pulse.request_started();
        pulse.request_started();
        pulse.offers(0);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(
            pulse.next_look(&limits()).is_some(),
            "the other request computes"
        );
        pulse.offers(2 * PATIENCE_STEP);
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(
            pulse.next_look(&limits()).is_some(),
            "three times 5 s for two steps"
        );
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(pulse.next_look(&limits()).is_none());
        pulse.offer_ended(2 * PATIENCE_STEP);
        pulse.request_ended(Instant::now());
        assert!(pulse.next_look(&limits()).is_some());
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(pulse.next_look(&limits()).is_none());
    }
}
