//! What programs do with files, on any filesystem: the same system calls for the bare directory and for each mount.
//!
//! Files are stamped: each page of 4 KiB begins with its offset, so that every read can be checked at the cost of
//! one comparison. What is made ready before (paths, buffers, warm pages) is outside the time that is printed.

use std::ffi::{CString, c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{Options, looks};

/// How often an offset is written down in a file.
const PAGE: usize = 4096;
/// What readdir(3) asks getdents64(2) for.
const NAMES: usize = 32 << 10;

/// What was done: how much of it, and what it took.
pub struct Done {
    work: usize,
    wall: Duration,
    cpu: Duration,
}

/// Does `--op` below `--path`.
///
/// # Errors
/// What the filesystem says, and bytes or names that are not what they must be.
pub fn run(options: &Options) -> Result<String, String> {
    let path = Path::new(options.text("path")?);
    let count = options.number("count")?;
    let done = match options.text("op")? {
        "write" => write(File::create_new, path, count, options.number("block")?),
        "rewrite" => write(open, path, count, options.number("block")?),
        "check" => read(path, count, PAGE, 1),
        "read" => read(
            path,
            count,
            options.number("block")?,
            options.number("passes")?,
        ),
        "random" => random(path, count, options.number("size")?),
        "create" => create(path, count, options.number("size")?),
        "stat" => stat(path, count, options.number("files")?),
        "list" => list(path, count),
        "statx" => looks::run(path, options.number("first")?, count, false),
        "statx-xattr" => looks::run(path, options.number("first")?, count, true),
        other => return Err(format!("no operation {other:?}")),
    };
    let done = done.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(format!(
        "{{\"answers\": {}, \"wall\": {:.6}, \"cpu\": {:.6}}}",
        done.work,
        done.wall.as_secs_f64(),
        done.cpu.as_secs_f64()
    ))
}

/// Writes `size` bytes from a file's beginning on, block by block, and closes it.
fn write(
    open: fn(PathBuf) -> io::Result<File>,
    path: &Path,
    size: usize,
    block: usize,
) -> io::Result<Done> {
    let mut buffer = vec![b'x'; block];
    timed(size, || {
        let file = open(path.to_owned())?;
        for at in (0..size).step_by(block) {
            for page in (0..block).step_by(PAGE) {
                buffer[page..page + 8].copy_from_slice(&((at + page) as u64).to_le_bytes());
            }
            file.write_all_at(&buffer, at as u64)?;
        }
        Ok(())
    })
}

/// Opens a file that is there, for writing in place.
fn open(path: PathBuf) -> io::Result<File> {
    File::options().write(true).open(path)
}

/// Reads a file of `size` bytes from its beginning to its end, `passes` times, opened anew for each.
fn read(path: &Path, size: usize, block: usize, passes: usize) -> io::Result<Done> {
    let mut buffer = vec![0; block];
    timed(size * passes, || {
        for _ in 0..passes {
            let file = File::open(path)?;
            for at in (0..size).step_by(block) {
                file.read_exact_at(&mut buffer, at as u64)?;
                compare(&buffer, at)?;
            }
            if file.read_at(&mut buffer, size as u64)? != 0 {
                return Err(wrong("a file that is longer than it was made"));
            }
        }
        Ok(())
    })
}

/// Reads `count` pages of a file of `size` bytes anywhere, once all of it was read by the same descriptor.
fn random(path: &Path, count: usize, size: usize) -> io::Result<Done> {
    let file = File::open(path)?;
    let mut large = vec![0; 1 << 20];
    for at in (0..size).step_by(large.len()) {
        file.read_exact_at(&mut large, at as u64)?;
    }
    let mut buffer = [0; PAGE];
    let mut seed = 20_u64;
    timed(count, || {
        for _ in 0..count {
            // xorshift64: the same offsets for everyone.
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = (seed as usize % (size / PAGE)) * PAGE;
            file.read_exact_at(&mut buffer, at as u64)?;
            compare(&buffer, at)?;
        }
        Ok(())
    })
}

fn compare(bytes: &[u8], at: usize) -> io::Result<()> {
    match bytes[..8] == (at as u64).to_le_bytes() {
        true => Ok(()),
        false => Err(wrong("other bytes than were written")),
    }
}

/// Makes `count` files of `size` bytes: created, written, closed.
fn create(dir: &Path, count: usize, size: usize) -> io::Result<Done> {
    let content = vec![b'x'; size];
    let paths: Vec<PathBuf> = (0..count).map(|n| dir.join(name(n))).collect();
    timed(count, || {
        for path in &paths {
            File::create_new(path)?.write_all_at(&content, 0)?;
        }
        Ok(())
    })
}

/// Asks `count` times for the status of `files` files, in turn.
fn stat(dir: &Path, count: usize, files: usize) -> io::Result<Done> {
    let paths = (0..files).map(|n| CString::new(dir.join(name(n)).into_os_string().into_vec()));
    let paths: Vec<CString> = paths.collect::<Result<_, _>>()?;
    let mut status = Status([0; 256]);
    timed(count, || {
        for path in paths.iter().cycle().take(count) {
            // SAFETY: the path ends with a zero byte, and the buffer is larger than any struct stat.
            if unsafe { fstatat(AT_FDCWD, path.as_ptr(), &raw mut status, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    })
}

/// Lists a directory of `count` files: names alone.
fn list(dir: &Path, count: usize) -> io::Result<Done> {
    let mut buffer = vec![0_u8; NAMES];
    timed(count, || {
        let dir = File::open(dir)?;
        let mut found = 0;
        loop {
            // SAFETY: the buffer is ours for the call, and as long as we say.
            let filled = unsafe { getdents64(dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
            match usize::try_from(filled) {
                Err(_) => return Err(io::Error::last_os_error()),
                Ok(0) => break,
                Ok(filled) => found += names(&buffer[..filled]),
            }
        }
        match found == count + 2 {
            true => Ok(()),
            false => Err(wrong("another number of names than there are files")),
        }
    })
}

/// How many entries there are: the length of each lies behind its inode number and its offset.
fn names(mut entries: &[u8]) -> usize {
    let mut found = 0;
    while entries.len() > 18 {
        let length = u16::from_le_bytes([entries[16], entries[17]]);
        entries = entries.get(usize::from(length)..).unwrap_or_default();
        found += 1;
    }
    found
}

/// The name of a file; they count upwards in key order.
pub fn name(number: usize) -> String {
    format!("file-{number:015}.bin")
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Does it, and says what it took.
///
/// # Errors
/// Its own.
pub fn timed(work: usize, act: impl FnOnce() -> io::Result<()>) -> io::Result<Done> {
    let (started, before) = (Instant::now(), own_cpu());
    act()?;
    Ok(Done {
        work,
        wall: started.elapsed(),
        cpu: own_cpu() - before,
    })
}

/// CPU time of this process so far.
fn own_cpu() -> Duration {
    let mut time = Time {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: the buffer is a struct timespec of a 64-bit Linux.
    unsafe { clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.seconds as u64, time.nanoseconds as u32)
}

/// Room for a struct stat, which nobody looks into.
#[repr(C, align(16))]
struct Status([u8; 256]);

#[repr(C)]
struct Time {
    seconds: i64,
    nanoseconds: i64,
}

const AT_FDCWD: c_int = -100;
const CLOCK_PROCESS_CPUTIME_ID: c_int = 2;

unsafe extern "C" {
    fn fstatat(dir: c_int, path: *const c_char, status: *mut Status, flags: c_int) -> c_int;
    fn getdents64(dir: c_int, buffer: *mut u8, length: usize) -> isize;
    fn clock_gettime(clock: c_int, time: *mut Time) -> c_int;
}
