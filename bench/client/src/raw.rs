//! Plain files by plain system calls: the limit of a small durable PUT on this filesystem.
//!
//! Each file is made under a temporary name, written, and renamed; with `--sync 1` its data is synced before the
//! rename and its directory after it, one file at a time in each thread, as a gateway without shared syncs would.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::Options;

/// Makes `--files` of `--bytes` below `--dir` with `--threads`.
///
/// # Errors
/// What the filesystem says.
pub fn run(options: &Options) -> Result<String, String> {
    let dir = Path::new(options.text("dir")?);
    let files = options.number("files")?;
    let threads = options.number("threads")?;
    let content = vec![b'x'; options.number("bytes")?];
    let sync = options.get("sync").is_some();
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let results: Vec<_> = std::thread::scope(|scope| {
        let work = || -> std::io::Result<()> {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= files {
                    return Ok(());
                }
                make(dir, index, &content, sync)?;
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect()
    });
    let wall = started.elapsed();
    for result in results {
        result
            .map_err(|_| "a thread panicked")?
            .map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    Ok(format!(
        "{{\"answers\": {files}, \"wall\": {:.6}}}",
        wall.as_secs_f64()
    ))
}

fn make(dir: &Path, index: usize, content: &[u8], sync: bool) -> std::io::Result<()> {
    let temporary = dir.join(format!(".{index}"));
    let mut file = File::create_new(&temporary)?;
    file.write_all(content)?;
    if sync {
        file.sync_data()?;
    }
    fs::rename(&temporary, dir.join(format!("file-{index:06}")))?;
    if sync {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}
