//! Plain files by plain system calls: the limit of a small durable PUT on this filesystem.
//!
//! Each file is made without a name, written, and linked; with `--sync 1` its data is synced (fdatasync) before the
//! link and its directory (fsync) after it, one file at a time in each thread, as a gateway without shared syncs would.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
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

unsafe extern "C" {
    fn linkat(from: i32, source: *const i8, to: i32, target: *const i8, flags: i32) -> i32;
}

/// Linux: a file in that directory, without a name yet (open(2)); the value is that of x86-64 and arm64 alike but for
/// O_DIRECTORY, which is part of it.
const O_TMPFILE: i32 = 0o20_000_000
    | if cfg!(target_arch = "aarch64") {
        0o40_000
    } else {
        0o200_000
    };
const AT_FDCWD: i32 = -100;
const AT_SYMLINK_FOLLOW: i32 = 0x400;

fn make(dir: &Path, index: usize, content: &[u8], sync: bool) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .custom_flags(O_TMPFILE)
        .open(dir)?;
    file.write_all(content)?;
    if sync {
        file.sync_data()?;
    }
    let source = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let target = dir.join(format!("file-{index:06}"));
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: two strings that end with a zero and live for the call.
    let linked = unsafe {
        linkat(
            AT_FDCWD,
            source.as_ptr().cast(),
            AT_FDCWD,
            target.as_ptr().cast(),
            AT_SYMLINK_FOLLOW,
        )
    };
    if linked != 0 {
        return Err(std::io::Error::last_os_error());
    }
    if sync {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}
