//! Directories with many names: made, and read and sorted, which is the least that the first page of a listing takes.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::Options;

/// What every file that is made here holds.
const LENGTH: u64 = 1000;

/// Reads the names of `--dir` and sorts them in byte order, as one buffer with offsets: by eight bytes after what all
/// have in common, ties by the whole.
///
/// # Errors
/// What the filesystem says; another number of names than `--count`.
pub fn sorted(options: &Options) -> Result<String, String> {
    let dir = options.text("dir")?;
    let words = |error: std::io::Error| format!("{dir}: {error}");
    let started = Instant::now();
    let (mut bytes, mut spans) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir).map_err(words)? {
        let name = entry.map_err(words)?.file_name();
        let begin = bytes.len();
        bytes.extend_from_slice(name.as_bytes());
        spans.push((begin, bytes.len()));
    }
    let first = spans.first().map_or(&[][..], |&(a, b)| &bytes[a..b]);
    let common = spans.iter().fold(first.len(), |common, &(a, b)| {
        let pairs = first[..common].iter().zip(&bytes[a..b]);
        pairs.take_while(|(one, other)| one == other).count()
    });
    let mut keyed: Vec<(u64, usize, usize)> = spans
        .iter()
        .map(|&(a, b)| (eight_bytes(&bytes[a + common..b]), a, b))
        .collect();
    keyed.sort_unstable_by(|one, other| {
        let whole = || bytes[one.1..one.2].cmp(&bytes[other.1..other.2]);
        one.0.cmp(&other.0).then_with(whole)
    });
    let wall = started.elapsed();
    if keyed.len() != options.number("count")? {
        return Err(format!("{dir} has {} names", keyed.len()));
    }
    Ok(format!("{{\"wall\": {:.6}}}", wall.as_secs_f64()))
}

/// The first eight bytes as a number that compares as they do.
fn eight_bytes(text: &[u8]) -> u64 {
    let mut key = [0; 8];
    let length = text.len().min(8);
    key[..length].copy_from_slice(&text[..length]);
    u64::from_be_bytes(key)
}

/// Makes `--files` files in `--dir`, or with `--folders` so many in each of as many folders; two threads share the folders.
///
/// # Errors
/// What the filesystem says.
pub fn make(options: &Options) -> Result<String, String> {
    let dir = Path::new(options.text("dir")?);
    let files = options.number("files")?;
    let folders: Vec<PathBuf> = match options.get("folders") {
        None => vec![dir.to_owned()],
        Some(_) => (0..options.number("folders")?)
            .map(|index| dir.join(format!("folder-{index:04}")))
            .collect(),
    };
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let work = || -> std::io::Result<()> {
        while let Some(folder) = folders.get(next.fetch_add(1, Ordering::Relaxed)) {
            fs::create_dir_all(folder)?;
            let mut path = folder.join("name");
            for index in 0..files {
                path.set_file_name(format!("file-{index:015}.bin"));
                File::create_new(&path)?.set_len(LENGTH)?;
            }
        }
        Ok(())
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads
            .map(std::thread::ScopedJoinHandle::join)
            .into_iter()
            .collect()
    });
    for result in results {
        result
            .map_err(|_| "a thread panicked")?
            .map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    Ok(format!(
        "{{\"wall\": {:.6}}}",
        started.elapsed().as_secs_f64()
    ))
}
