//! The pulse of one connection: what it waits for, and since when.
//!
//! The socket and the service write it with a few relaxed stores; one lazily re-armed timer per
//! connection reads it. So timeouts cost no timer work per request, and idle, slow-head and
//! slow-reader connections each have their own limit (hyper's header timer knows only one).

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::limits::Limits;

/// Times are milliseconds since `born` plus one; 0 means "not so".
#[derive(Debug)]
pub(crate) struct Pulse {
    born: Instant,
    /// HTTP/2: frames arrive without requests, so there is no head to wait for.
    multiplexed: AtomicBool,
    in_flight: AtomicUsize,
    idle_since: AtomicU64,
    head_since: AtomicU64,
    blocked_since: AtomicU64,
    unread_body: AtomicBool,
}

impl Pulse {
    /// Starts with a connection that owes us the head of its first request.
    pub(crate) fn new() -> Self {
        Self {
            born: Instant::now(),
            multiplexed: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(1),
            blocked_since: AtomicU64::new(0),
            unread_body: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis())
            .expect("no connection lives 500 million years")
            + 1
    }

    /// Notes that HTTP/2 was negotiated.
    pub(crate) fn multiplex(&self) {
        self.multiplexed.store(true, Relaxed);
        self.head_since.store(0, Relaxed);
    }

    /// Notes that bytes arrived.
    pub(crate) fn received(&self) {
        let between_requests = self.in_flight.load(Relaxed) == 0 && !self.multiplexed.load(Relaxed);
        if between_requests && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    /// Notes that the head of a request is complete.
    pub(crate) fn request_started(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        self.head_since.store(0, Relaxed);
    }

    /// Notes that a response was handed over whole, or given up.
    pub(crate) fn request_ended(&self) {
        self.idle_since.store(self.now(), Relaxed);
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

    /// Notes that a request was answered before its body was read to the end.
    pub(crate) fn left_body_unread(&self) {
        self.unread_body.store(true, Relaxed);
    }

    /// Notes that the rest of an answered request's body has come: it was no head.
    pub(crate) fn skipped_body(&self) {
        self.idle_since.store(self.now(), Relaxed);
        self.head_since.store(0, Relaxed);
    }

    /// Says whether HTTP/2 is spoken.
    pub(crate) fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Relaxed)
    }

    /// Says whether bytes of a request may still be coming that nobody will read.
    pub(crate) fn has_unread_body(&self) -> bool {
        self.unread_body.load(Relaxed)
    }

    /// Says when to look again; `None` when the connection's time is up.
    pub(crate) fn next_look(&self, limits: &Limits) -> Option<Instant> {
        let blocked = self.blocked_since.load(Relaxed);
        let head = self.head_since.load(Relaxed);
        let now = Instant::now();
        // A shorter limit may begin to run meanwhile: never sleep past the shortest. A limit of zero must not spin.
        let shortest = limits
            .body_idle
            .min(limits.keep_alive_idle)
            .min(limits.header_timeout);
        let by_then = now + shortest.max(Duration::from_millis(10));
        let (since, limit) = if blocked != 0 {
            (blocked, limits.body_idle)
        } else if self.in_flight.load(Relaxed) > 0 {
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
        let pulse = Pulse::new();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(pulse.next_look(&limits()).is_some());
        pulse.received(); // a byte of a slow head does not extend the limit
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(pulse.next_look(&limits()).is_none());

        pulse.request_started();
        assert!(pulse.next_look(&limits()).is_some());
        pulse.request_ended();
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(pulse.next_look(&limits()).is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(pulse.next_look(&limits()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_computes_has_no_limit_but_a_reader_that_takes_nothing_has() {
        let pulse = Pulse::new();
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
}
