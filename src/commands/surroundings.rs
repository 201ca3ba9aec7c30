//! What a daemon needs of the machine, looked at before anything is opened: its clock, and how many files it may open.

use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Failure;

/// 2020-01-01, in Unix time: a clock that stands before has never been set.
const EARLIEST: Duration = Duration::from_secs(1_577_836_800);
/// Files that must be allowed to be open at once: the daemon's own, and a few dozen requests'.
const LEAST_FILES: u64 = 256;

/// Is the clock one that was set?
///
/// # Errors
/// `Unavailable`, in one sentence.
pub fn clock(now: SystemTime) -> Result<(), Failure> {
    match now >= SystemTime::UNIX_EPOCH + EARLIEST {
        true => Ok(()),
        false => Err(Failure::Unavailable(anyhow!(
            "the clock stands before the year 2020, so that the signature of every request would be refused: set it (timedatectl set-ntp true), and start again"
        ))),
    }
}

/// Does anything keep the clock right, as the kernel has it? `None`: it does not say.
pub fn is_synchronised() -> Option<bool> {
    // SAFETY: a timex of zeros asks for nothing to be changed, and the kernel fills it in.
    let state = unsafe {
        let mut asked: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut asked)
    };
    (state >= 0).then_some(state != libc::TIME_ERROR)
}

/// Takes as many descriptors as the system lets us: each connection has one, and so has each file that is
/// read or written, while the usual limit of 1,024 is there for programs that call select(2).
///
/// # Errors
/// `Unavailable` where that is too few, in one sentence.
pub fn descriptors() -> Result<(), Failure> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < LEAST_FILES) {
        let most = limit.maximum.unwrap_or_default();
        return Err(Failure::Unavailable(anyhow!(
            "no more than {most} files may be open at once, and {LEAST_FILES} at least are needed: raise the limit (ulimit -n 4096; in a unit LimitNOFILE=4096)"
        )));
    }
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = limit.current, "no more descriptors can be had");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_never_set_is_refused() {
        assert!(clock(SystemTime::now()).is_ok());
        for seconds in [0, 100, 1_577_836_799] {
            let then = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let Err(Failure::Unavailable(why)) = clock(then) else {
                panic!("{seconds} is taken");
            };
            assert!(why.to_string().contains("set it"), "{why}");
        }
        assert!(clock(SystemTime::UNIX_EPOCH + EARLIEST).is_ok());
    }
}
