//! A disk that takes its time: a FUSE filesystem with one large file of zeros, each of whose reads and lookups waits.
//!
//! Read-only, one directory deep, spoken to the kernel without any library (linux/fuse.h, version 7.31). It ends when
//! it is unmounted.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::Options;

/// Requests at once: more than connections that wait for it.
const THREADS: usize = 256;
/// What a request may take of memory: the kernel asks for 128 KiB and a header at most.
const REQUEST: usize = 256 << 10;

const ROOT: u64 = 1;
const FILE: u64 = 2;
const NAME: &[u8] = b"large\0";

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;

unsafe extern "C" {
    fn mount(
        source: *const i8,
        target: *const i8,
        kind: *const i8,
        flags: u64,
        data: *const i8,
    ) -> i32;
}

/// MS_RDONLY, MS_NOSUID and MS_NODEV (mount(2)).
const FLAGS: u64 = 1 | 2 | 4;

/// Mounts on `--dir`; the file has `--bytes`, and each read and lookup waits `--delay` milliseconds.
///
/// # Errors
/// Where it may not mount.
pub fn run(options: &Options) -> Result<String, String> {
    let dir = options.text("dir")?;
    let disk = Disk {
        bytes: options.number("bytes")? as u64,
        delay: Duration::from_millis(options.number("delay")? as u64),
    };
    let words = |error: std::io::Error| format!("{dir}: {error}");
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let device = device.map_err(words)?;
    let text = |text: &str| CString::new(text).map_err(|error| error.to_string());
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        device.as_raw_fd()
    );
    let (source, target, kind, data) = (text("slow")?, text(dir)?, text("fuse")?, text(&data)?);
    // SAFETY: four strings that end with a zero and live for the call.
    let mounted = unsafe {
        mount(
            source.as_ptr().cast(),
            target.as_ptr().cast(),
            kind.as_ptr().cast(),
            FLAGS,
            data.as_ptr().cast(),
        )
    };
    if mounted != 0 {
        return Err(words(std::io::Error::last_os_error()));
    }
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| disk.serve(&device));
        }
    });
    Ok("{}".to_owned())
}

struct Disk {
    bytes: u64,
    delay: Duration,
}

impl Disk {
    /// Answers requests until the filesystem is unmounted, which reading says as an error.
    fn serve(&self, mut device: &File) {
        let mut request = vec![0; REQUEST];
        while let Ok(length) = device.read(&mut request) {
            let (header, body) = request[..length].split_at(40);
            let opcode = u32::from_le_bytes(header[4..8].try_into().expect("four bytes"));
            let node = u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"));
            if matches!(opcode, FORGET | BATCH_FORGET | INTERRUPT) {
                continue;
            }
            let (error, answer) = match self.answer(opcode, node, body) {
                Ok(answer) => (0, answer),
                Err(number) => (-number, Vec::new()),
            };
            let mut reply = Vec::with_capacity(16 + answer.len());
            reply.extend((16 + answer.len() as u32).to_le_bytes());
            reply.extend(error.to_le_bytes());
            reply.extend(&header[8..16]); // which request
            reply.extend(answer);
            // An answer that nobody waits for any more (interrupted, unmounted) is refused: nothing is lost.
            let _ = device.write(&reply);
        }
    }

    fn answer(&self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let field = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight"));
        match opcode {
            INIT => Ok(init()),
            LOOKUP if node == ROOT && body == NAME => {
                std::thread::sleep(self.delay);
                let mut entry = Vec::new();
                entry.extend(FILE.to_le_bytes());
                entry.extend([0; 8 + 8 + 8 + 4 + 4]); // generation; nothing may be remembered
                entry.extend(self.attributes(FILE));
                Ok(entry)
            }
            LOOKUP => Err(ENOENT),
            GETATTR => {
                let mut attributes = vec![0; 16]; // nothing may be remembered
                attributes.extend(self.attributes(node));
                Ok(attributes)
            }
            OPEN | OPENDIR => Ok(vec![0; 16]),
            READ => {
                std::thread::sleep(self.delay);
                let (offset, size) = (field(8), field(16) & 0xffff_ffff);
                let length = size.min(self.bytes.saturating_sub(offset));
                Ok(vec![0; length as usize])
            }
            STATFS => Ok(vec![0; 80]),
            RELEASE | RELEASEDIR | FLUSH | READDIR => Ok(Vec::new()),
            _ => Err(ENOSYS),
        }
    }

    /// `struct fuse_attr`.
    fn attributes(&self, node: u64) -> Vec<u8> {
        let is_file = node == FILE;
        let mut all = Vec::with_capacity(88);
        let size = if is_file { self.bytes } else { 4096 };
        // ino, size, blocks, atime, mtime, ctime
        for field in [node, size, size / 512, LONG_AGO, LONG_AGO, LONG_AGO] {
            all.extend(field.to_le_bytes());
        }
        let mode = if is_file { 0o100_644 } else { 0o40_755 };
        // the three times' nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags
        for field in [0_u32, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
            all.extend(field.to_le_bytes());
        }
        all
    }
}

/// When everything was last changed, in seconds.
const LONG_AGO: u64 = 1_700_000_000;

/// `struct fuse_init_out`: many requests at once, no read-ahead.
fn init() -> Vec<u8> {
    let mut all = Vec::with_capacity(64);
    // major, minor, max_readahead, flags
    for field in [7_u32, 31, 0, 0] {
        all.extend(field.to_le_bytes());
    }
    // max_background, congestion_threshold
    for field in [1024_u16, 1024] {
        all.extend(field.to_le_bytes());
    }
    // max_write, time_gran
    for field in [4096_u32, 1] {
        all.extend(field.to_le_bytes());
    }
    all.resize(64, 0);
    all
}
