//! Reading a lent file: at once where the page cache has the bytes, on the blocking pool where not.
//!
//! The only room that asks what the page cache holds. Nothing here opens anything.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use bytes::Bytes;
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};

/// How many bytes one copied run has.
pub(crate) const CHUNK: usize = 256 << 10;

/// The size of a page of this kernel, in bytes.
static PAGE: LazyLock<u64> = LazyLock::new(|| rustix::param::page_size() as u64);

/// What a read that must not wait found.
pub(crate) enum Now {
    /// These bytes: at least one, unless none were asked for; not necessarily all.
    Read(Bytes),
    /// Only a thread that may wait can tell.
    WouldWait,
}

/// Reads up to `len` bytes at `offset` without waiting for a disk.
///
/// # Errors
/// `UnexpectedEof` where the file ends at or before `offset`, else what the read says.
pub(crate) fn read_now(file: &File, offset: u64, len: usize) -> io::Result<Now> {
    let mut buf = take_buffer(len);
    match read_cached(file, offset, &mut buf.0)? {
        Some(0) if len > 0 => Err(ended_early()),
        Some(count) => Ok(Now::Read(buf.into_bytes(count))),
        None => Ok(Now::WouldWait),
    }
}

/// Reads what the page cache has; `None`: only a thread that may wait can tell.
fn read_cached(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        let into = &mut [IoSliceMut::new(buf)];
        match rustix::io::preadv2(file, into, offset, ReadWriteFlags::NOWAIT) {
            Err(Errno::INTR) => {}
            // Linux: filesystems that cannot answer without waiting say EOPNOTSUPP (overlay on old kernels, FUSE).
            Err(Errno::AGAIN | Errno::OPNOTSUPP) => return Ok(None),
            other => return Ok(Some(other?)),
        }
    }
}

/// Reads up to `len` bytes at `offset` behind what `out` holds, without waiting for a disk; says how many there were,
/// 0 also where it would have waited.
///
/// # Errors
/// What the read says.
pub(crate) fn append_now(
    file: &File,
    offset: u64,
    len: usize,
    out: &mut Vec<u8>,
) -> io::Result<usize> {
    let before = out.len();
    out.resize(before + len, 0);
    let read = fill_now(file, offset, &mut out[before..])?;
    out.truncate(before + read);
    Ok(read)
}

/// Reads into the beginning of `buf` without waiting for a disk; as [`append_now`].
///
/// # Errors
/// What the read says.
pub(crate) fn fill_now(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    Ok(read_cached(file, offset, buf)?.unwrap_or(0))
}

/// Reads exactly `len` bytes at `offset`; may wait for a disk.
///
/// # Errors
/// `UnexpectedEof` where the file ends before, else what the read says.
pub(crate) fn read_waiting(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buf = take_buffer(len);
    file.read_exact_at(&mut buf.0, offset).map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            ended_early()
        } else {
            error
        }
    })?;
    Ok(buf.into_bytes(len))
}

/// Brings `len` bytes at `offset` into the page cache; may wait for a disk.
///
/// # Errors
/// `UnexpectedEof` where the file ends before, else what the read says.
pub(crate) fn load(file: &File, offset: u64, len: usize) -> io::Result<()> {
    // readahead is a hint that starts the disk on all of it; the reads below wait for it.
    if let Err(error) = rustix::fs::fadvise(
        file,
        offset,
        std::num::NonZeroU64::new(len as u64),
        Advice::WillNeed,
    ) {
        tracing::trace!(%error, "no readahead");
    }
    let mut scratch = take_buffer(len.min(64 << 10));
    let end = offset + len as u64;
    let mut at = offset;
    while at < end {
        let want =
            usize::try_from(end - at).map_or(scratch.0.len(), |left| left.min(scratch.0.len()));
        match file.read_at(&mut scratch.0[..want], at) {
            Ok(0) => return Err(ended_early()),
            Ok(count) => at += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says whether the page cache holds all of `len` bytes at `offset`.
pub(crate) fn are_cached(file: &File, offset: u64, len: usize) -> bool {
    if len == 0 {
        return true;
    }
    let wanted = (offset + len as u64 - 1) / *PAGE - offset / *PAGE + 1;
    match cached_pages(file, offset, len as u64) {
        Ok(cached) => cached >= wanted,
        // Linux: before 6.5 there is no cachestat. Readahead loads runs, so both ends speak for the middle.
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
            let ends = [offset, offset + len as u64 - 1];
            ends.iter()
                .all(|&at| matches!(read_now(file, at, 1), Ok(Now::Read(_))))
        }
        // The read or the sendfile that follows will meet the same error and report it.
        Err(_) => true,
    }
}

/// cachestat(2): how many pages of the run are in the page cache.
fn cached_pages(file: &File, offset: u64, len: u64) -> Result<u64, Errno> {
    /// The same number on every architecture.
    const SYS_CACHESTAT: libc::c_long = 451;
    #[repr(C)]
    struct Range {
        offset: u64,
        len: u64,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Stat {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    let range = Range { offset, len };
    let mut stat = Stat::default();
    // SAFETY: both structs have the kernel's layout and outlive the call, which writes only `stat`.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            &raw const range,
            &raw mut stat,
            0,
        )
    };
    if result == 0 {
        return Ok(stat.cached);
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::NOSYS))
}

fn ended_early() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the file shrank while it was sent",
    )
}

thread_local! {
    /// Buffers of finished runs, so that a large body does not map and zero fresh memory for each.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Spare buffers that one thread keeps at most.
const SPARES: usize = 16;

/// A buffer that goes back to its thread's spares when it is dropped.
struct Pooled(Vec<u8>);

impl Pooled {
    fn into_bytes(mut self, len: usize) -> Bytes {
        self.0.truncate(len);
        if self.0.capacity() == CHUNK {
            Bytes::from_owner(self)
        } else {
            Bytes::from(std::mem::take(&mut self.0))
        }
    }
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if self.0.capacity() != CHUNK {
            return;
        }
        let buf = std::mem::take(&mut self.0);
        // Nothing is lost with the error: a thread that is ending keeps no spares, and the buffer is simply freed.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARES {
                spare.push(buf);
            }
        });
    }
}

/// Gives a buffer of `len` readable bytes: of the size of a run, where a spare saves the allocation, else exact.
fn take_buffer(len: usize) -> Pooled {
    if len <= CHUNK / 4 || len > CHUNK {
        return Pooled(vec![0; len]);
    }
    let mut buf = SPARE
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Vec::with_capacity(CHUNK));
    // Bytes of an earlier run may stand here: each read says how many it replaced, and only those are shown.
    buf.resize(len, 0);
    Pooled(buf)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("the temporary directory takes a file");
        file.write_all(bytes)
            .expect("the temporary file takes its bytes");
        file
    }

    #[test]
    fn reads_at_once_what_is_cached_and_says_when_the_file_ends() {
        let bytes: Vec<u8> = (0..100_000u32).flat_map(|n| n.to_le_bytes()).collect();
        let file = file_of(&bytes);
        assert!(are_cached(&file, 3, 300_000));
        for (offset, len) in [(0, 1), (1, 65_536), (4095, 262_144), (399_999, 1)] {
            match read_now(&file, offset, len).expect("the file can be read") {
                Now::Read(read) => {
                    assert!(!read.is_empty() && read.len() <= len);
                    assert_eq!(
                        read[..],
                        bytes[offset as usize..offset as usize + read.len()]
                    );
                }
                Now::WouldWait => panic!("a file just written is in the page cache"),
            }
            assert_eq!(
                read_waiting(&file, offset, len).expect("the file can be read")[..],
                bytes[offset as usize..][..len]
            );
        }
        let end = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof)
        };
        end(read_now(&file, 400_000, 1).map(drop));
        end(read_waiting(&file, 399_999, 2).map(drop));
        end(load(&file, 399_999, 2));
        load(&file, 5, 200_000).expect("the file is long enough");
    }

    #[test]
    fn a_reused_buffer_shows_only_the_bytes_of_its_own_read() {
        let first = read_waiting(&file_of(&[1; CHUNK]), 0, CHUNK).expect("the file can be read");
        drop(first);
        match read_now(&file_of(&[2; 100_000]), 0, CHUNK).expect("the file can be read") {
            Now::Read(read) => assert!(read.len() == 100_000 && read.iter().all(|&b| b == 2)),
            Now::WouldWait => panic!("a file just written is in the page cache"),
        }
    }
}
