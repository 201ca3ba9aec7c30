//! What the kernel says of this process, under the names that every Prometheus client library uses.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use twintree_gateway::meter::{Exposition, Kind};

/// Writes it; what cannot be read is left out.
pub fn write(out: &mut Exposition) {
    // The descriptor that reads the directory is one of them.
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        out.one(
            Kind::Gauge,
            "process_open_fds",
            "Open file descriptors.",
            open.count().saturating_sub(1),
        );
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        out.one(
            Kind::Gauge,
            "process_max_fds",
            "Maximum number of open file descriptors.",
            most,
        );
    }
    let Some(stat) = fs::read_to_string("/proc/self/stat").ok() else {
        return;
    };
    let Some(stat) = Stat::parse(&stat) else {
        return;
    };
    let ticks = clock_ticks_per_second() as f64;
    out.one(
        Kind::Counter,
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        stat.ticks as f64 / ticks,
    );
    out.one(
        Kind::Gauge,
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        stat.resident_pages * page_size() as u64,
    );
    out.one(
        Kind::Gauge,
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        stat.virtual_bytes,
    );
    out.one(
        Kind::Gauge,
        "process_threads",
        "Number of OS threads in the process.",
        stat.threads,
    );
    if let Some(boot) = booted() {
        out.one(
            Kind::Gauge,
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            boot as f64 + stat.started as f64 / ticks,
        );
    }
}

/// proc_pid_stat(5).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// User and system time.
    ticks: u64,
    threads: u64,
    /// Ticks after the boot.
    started: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    /// The name, in parentheses, may hold anything; after the last of them come numbers from the third on.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |place: usize| fields.get(place - 3)?.parse::<u64>().ok();
        Some(Self {
            ticks: number(14)? + number(15)?,
            threads: number(20)?,
            started: number(22)?,
            virtual_bytes: number(23)?,
            resident_pages: number(24)?,
        })
    }
}

/// When the machine was started, in seconds of Unix.
fn booted() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_numbers() {
        let line = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 9 0 4455 8192 77 18446744073709551615";
        let stat = Stat {
            ticks: 42,
            threads: 9,
            started: 4455,
            virtual_bytes: 8192,
            resident_pages: 77,
        };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse("7 (a"), None);
    }
}
