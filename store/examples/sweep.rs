//! Sweeps every bucket under a root as the daemon does each hour, but takes what is there whatever its age:
//! `sweep ROOT [uploads]`. With `uploads` pending uploads go too. Tests run it between two requests; while a
//! daemon is writing it would take what is under way.

use std::process::ExitCode;
use std::time::Duration;

use twintree_store::sweep::SweepAges;
use twintree_store::{Durability, KeyPolicy, Store, StoreOptions};

/// Longer than any upload of a test waits.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(root) = arguments.next() else {
        eprintln!("sweep ROOT [uploads]");
        return ExitCode::from(64);
    };
    let uploads = match arguments.next().as_deref() {
        Some("uploads") => Duration::ZERO,
        _ => NEVER,
    };
    let store = Store::open(StoreOptions {
        root: root.into(),
        durability: Durability::Relaxed,
        keys: KeyPolicy::Any,
        read_only: false,
        hide: Vec::new(),
        verify_mtime_only: false,
        etags: Default::default(),
        buckets: Default::default(),
        more_roots: Vec::new(),
    });
    match store {
        Ok(store) => {
            store.sweep(SweepAges {
                stage: Duration::ZERO,
                notes: Duration::ZERO,
                uploads,
            });
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("sweep: {e}");
            ExitCode::FAILURE
        }
    }
}
