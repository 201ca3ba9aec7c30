//! What is counted of requests and connections, at the cost of a few relaxed additions a request.
//!
//! Everything lies in arrays of a fixed length: a row for each operation of S3, a cell for each status and each class
//! of duration. Threads are spread over a few copies of them (shards), so that no two processors wait for one cache
//! line; whoever reads adds the copies up. Nothing here locks or allocates after the start. The prometheus-client
//! crate (0.24) looks a row up in a map behind a lock for each request, which is why it does not do here.

mod text;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::route::Operation;

pub use text::{Exposition, Kind};

/// The statuses that have a cell of their own; all others share the one behind them.
const STATUSES: [u16; 22] = [
    200, 204, 206, 301, 304, 400, 403, 404, 405, 408, 409, 411, 412, 413, 416, 417, 431, 499, 500,
    501, 503, 507,
];
/// The upper ends of the classes of duration, in microseconds; one without an end is behind them.
const DURATIONS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000, 60_000_000,
];
/// Copies at most: more than so many processors are rarely at one counter at once.
const MOST_SHARDS: usize = 16;
/// The operations that are looked for first.
const OFTEN: [&str; 3] = ["GetObject", "HeadObject", "PutObject"];
/// The row of requests that named no operation.
const NONE: &str = "none";

/// The counters of one server.
pub struct Meter {
    /// The operations: those of [`OFTEN`], and the others sorted; each has the row of its place. One more row is for
    /// [`NONE`].
    names: Box<[&'static str]>,
    shards: Box<[Shard]>,
}

/// One copy of all counters. Aligned, so that none shares a cache line (or its neighbour) with another's.
#[repr(align(128))]
struct Shard {
    started: AtomicU64,
    received: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
    handshakes_failed: AtomicU64,
    rows: Box<[Row]>,
}

/// What is counted of one operation.
#[derive(Default)]
struct Row {
    micros: AtomicU64,
    sent: AtomicU64,
    cut: AtomicU64,
    statuses: [AtomicU64; STATUSES.len() + 1],
    durations: [AtomicU64; DURATIONS.len() + 1],
}

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// Its operation's name in S3; empty where it named none.
    pub operation: &'static str,
    /// What was answered.
    pub status: u16,
    /// From its head to the last byte that was handed over.
    pub took: Duration,
    /// Bytes of the answer's body that were handed to the connection.
    pub sent: u64,
    /// The answer ended before its end.
    pub cut: bool,
}

impl Default for Meter {
    fn default() -> Self {
        let mut names = Operation::names();
        names.retain(|name| !OFTEN.contains(name));
        names.sort_unstable();
        names.dedup();
        names.splice(..0, OFTEN);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let shard = |_| Shard {
            started: AtomicU64::new(0),
            received: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
            rows: (0..=names.len()).map(|_| Row::default()).collect(),
        };
        Self {
            shards: (0..processors.min(MOST_SHARDS)).map(shard).collect(),
            names: names.into(),
        }
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

impl Meter {
    /// Counts a request whose head has come.
    pub(crate) fn started(&self) {
        self.shard().started.fetch_add(1, Relaxed);
    }

    /// Counts a request that has ended.
    pub(crate) fn ended(&self, ended: &Ended) {
        let micros = u64::try_from(ended.took.as_micros()).unwrap_or(u64::MAX);
        let row = &self.shard().rows[self.row(ended.operation)];
        row.statuses[cell_of(ended.status)].fetch_add(1, Relaxed);
        row.durations[DURATIONS.partition_point(|end| *end < micros)].fetch_add(1, Relaxed);
        row.micros.fetch_add(micros, Relaxed);
        if ended.sent > 0 {
            row.sent.fetch_add(ended.sent, Relaxed);
        }
        if ended.cut {
            row.cut.fetch_add(1, Relaxed);
        }
    }

    /// Counts bytes of a request's body.
    pub(crate) fn received(&self, bytes: usize) {
        self.shard().received.fetch_add(bytes as u64, Relaxed);
    }

    /// Counts a connection until what is given back is dropped.
    pub(crate) fn connected(self: &Arc<Self>) -> Connected {
        self.shard().opened.fetch_add(1, Relaxed);
        Connected(Arc::clone(self))
    }

    /// Counts a TLS handshake that came to nothing.
    pub(crate) fn handshake_failed(&self) {
        self.shard().handshakes_failed.fetch_add(1, Relaxed);
    }

    /// Writes all of it.
    pub fn write(&self, out: &mut Exposition) {
        self.write_requests(out);
        let (opened, closed) = (self.sum(|s| &s.opened), self.sum(|s| &s.closed));
        out.one(
            Kind::Counter,
            "twintree_connections_total",
            "Connections that were accepted.",
            opened,
        );
        out.one(
            Kind::Gauge,
            "twintree_connections_open",
            "Connections that are open.",
            opened.saturating_sub(closed),
        );
        out.one(
            Kind::Counter,
            "twintree_tls_handshake_failures_total",
            "TLS handshakes that failed or took too long.",
            self.sum(|s| &s.handshakes_failed),
        );
    }

    fn write_requests(&self, out: &mut Exposition) {
        let rows: Vec<(&str, Totals)> = (0..=self.names.len())
            .map(|row| (*self.names.get(row).unwrap_or(&NONE), self.totals(row)))
            .filter(|(_, totals)| totals.count() > 0)
            .collect();
        out.head(
            Kind::Counter,
            "twintree_requests_total",
            "Requests that have ended, by operation of S3 and status; 499: the client left before there was an answer.",
        );
        for (operation, totals) in &rows {
            for (cell, count) in totals.statuses.iter().enumerate() {
                let status = STATUSES
                    .get(cell)
                    .map_or("other".to_owned(), u16::to_string);
                if *count > 0 {
                    out.sample("", &[("operation", operation), ("status", &status)], *count);
                }
            }
        }
        let finished = rows.iter().map(|(_, totals)| totals.count()).sum();
        out.one(
            Kind::Gauge,
            "twintree_requests_in_flight",
            "Requests whose answer has not ended.",
            self.sum(|s| &s.started).saturating_sub(finished),
        );
        out.head(
            Kind::Histogram,
            "twintree_request_duration_seconds",
            "From the end of a request's head to the last byte of the answer that the connection took over.",
        );
        for (operation, totals) in &rows {
            let seconds = totals.micros as f64 / 1e6;
            out.histogram(
                &[("operation", operation)],
                DURATIONS.iter().map(|end| *end as f64 / 1e6),
                &totals.durations,
                seconds,
            );
        }
        let mut of_each = |name, help, of: fn(&Totals) -> u64| {
            out.head(Kind::Counter, name, help);
            for (operation, totals) in &rows {
                out.sample("", &[("operation", operation)], of(totals));
            }
        };
        of_each(
            "twintree_response_body_bytes_total",
            "Bytes of answers' bodies that were handed to connections.",
            |totals| totals.sent,
        );
        of_each(
            "twintree_responses_cut_total",
            "Answers that ended before their end: the client left, or the file changed.",
            |totals| totals.cut,
        );
        out.one(
            Kind::Counter,
            "twintree_request_body_bytes_total",
            "Bytes of requests' bodies that came, framing of aws-chunked included.",
            self.sum(|s| &s.received),
        );
    }

    fn sum(&self, of: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        let each = self.shards.iter().map(|shard| of(shard).load(Relaxed));
        each.fold(0, u64::wrapping_add)
    }

    fn totals(&self, row: usize) -> Totals {
        let mut totals = Totals::default();
        for shard in &self.shards {
            let row = &shard.rows[row];
            totals.micros += row.micros.load(Relaxed);
            totals.sent += row.sent.load(Relaxed);
            totals.cut += row.cut.load(Relaxed);
            let add = |(total, cell): (&mut u64, &AtomicU64)| *total += cell.load(Relaxed);
            totals.statuses.iter_mut().zip(&row.statuses).for_each(add);
            let durations = totals.durations.iter_mut();
            durations.zip(&row.durations).for_each(add);
        }
        totals
    }

    fn row(&self, operation: &'static str) -> usize {
        // Most requests are one of these: a comparison or two instead of a search.
        let often = OFTEN.iter().position(|name| *name == operation);
        often.unwrap_or_else(|| {
            let rest = &self.names[OFTEN.len()..];
            let place = rest.binary_search(&operation).unwrap_or(rest.len());
            OFTEN.len() + place
        })
    }

    /// The copy of the thread that asks.
    fn shard(&self) -> &Shard {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static PLACE: Cell<usize> = Cell::new(THREADS.fetch_add(1, Relaxed));
        }
        // A thread that ends has no place any more.
        let place = PLACE.try_with(Cell::get).unwrap_or(0);
        &self.shards[place % self.shards.len()]
    }
}

/// An open connection, for as long as it lives.
pub(crate) struct Connected(Arc<Meter>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.shard().closed.fetch_add(1, Relaxed);
    }
}

/// A row, over all shards.
#[derive(Default)]
struct Totals {
    micros: u64,
    sent: u64,
    cut: u64,
    statuses: [u64; STATUSES.len() + 1],
    durations: [u64; DURATIONS.len() + 1],
}

impl Totals {
    fn count(&self) -> u64 {
        self.statuses.iter().sum()
    }
}

fn cell_of(status: u16) -> usize {
    STATUSES.binary_search(&status).unwrap_or(STATUSES.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(operation: &'static str, status: u16, micros: u64) -> Ended {
        Ended {
            operation,
            status,
            took: Duration::from_micros(micros),
            sent: 5,
            cut: status == 200,
        }
    }

    #[test]
    fn what_threads_count_beside_each_other_is_added_up() {
        let meter = Meter::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        meter.started();
                        meter.ended(&ended("GetObject", 200, 100));
                    }
                });
            }
        });
        meter.started();
        let mut out = Exposition::default();
        meter.write(&mut out);
        let text = out.into_text();
        for line in [
            "twintree_requests_total{operation=\"GetObject\",status=\"200\"} 8000",
            "twintree_requests_in_flight 1",
            "twintree_request_duration_seconds_bucket{operation=\"GetObject\",le=\"0.0001\"} 8000",
            "twintree_request_duration_seconds_sum{operation=\"GetObject\"} 0.8",
            "twintree_response_body_bytes_total{operation=\"GetObject\"} 40000",
            "twintree_responses_cut_total{operation=\"GetObject\"} 8000",
        ] {
            assert!(text.lines().any(|said| said == line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_has_no_cell_of_its_own_is_counted_as_well() {
        let meter = Meter::default();
        for (operation, status) in [("", 400), ("NoOperationOfOurs", 418), ("ListParts", 299)] {
            meter.started();
            meter.ended(&ended(operation, status, 70_000_000));
        }
        let mut out = Exposition::default();
        meter.write(&mut out);
        let text = out.into_text();
        for line in [
            "twintree_requests_total{operation=\"none\",status=\"400\"} 1",
            "twintree_requests_total{operation=\"none\",status=\"other\"} 1",
            "twintree_requests_total{operation=\"ListParts\",status=\"other\"} 1",
            "twintree_request_duration_seconds_bucket{operation=\"ListParts\",le=\"60\"} 0",
            "twintree_request_duration_seconds_bucket{operation=\"ListParts\",le=\"+Inf\"} 1",
            "twintree_requests_in_flight 0",
        ] {
            assert!(text.lines().any(|said| said == line), "{line}\n{text}");
        }
    }

    #[test]
    fn cells_are_found_by_a_search_that_wants_order() {
        assert!(STATUSES.is_sorted() && DURATIONS.is_sorted());
        let meter = Meter::default();
        assert_eq!(meter.names[meter.row("PutObject")], "PutObject");
        assert!(meter.names.iter().all(|name| !name.is_empty()));
    }
}
