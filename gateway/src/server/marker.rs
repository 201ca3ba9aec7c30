//! Markers: buffers that stand for bytes of a file, so that hyper carries them and the connection
//! sends the file instead.
//!
//! A marker is a slice of one process-wide anonymous mapping. It is legal memory that nobody reads;
//! the connection knows it **by its address**. Whoever meets a marker and cannot send a file must
//! fail the connection: the bytes behind the address are zeros.

use std::sync::LazyLock;

use bytes::{Buf, Bytes};

/// The longest run of file bytes that one marker stands for, in bytes.
pub(crate) const WINDOW: usize = 2 << 20;

/// Read-only, never touched: costs address space, no memory.
static MAPPING: LazyLock<&'static [u8]> = LazyLock::new(|| {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    // SAFETY: a fresh private mapping at an address of the kernel's choice overlaps nothing that Rust knows.
    let start = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            WINDOW,
            ProtFlags::READ,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    }
    .expect("2 MiB of address space can be mapped at start");
    // SAFETY: the mapping is WINDOW bytes long, readable, zero-filled, never written and never unmapped.
    unsafe { std::slice::from_raw_parts(start.cast::<u8>(), WINDOW) }
});

/// Makes the mapping now, so that a failure shows at start and not in a response.
pub(crate) fn prepare() {
    LazyLock::force(&MAPPING);
}

/// Says whether the buffer is a marker.
pub(crate) fn is_marker(buf: &[u8]) -> bool {
    !buf.is_empty() && MAPPING.as_ptr_range().contains(&buf.as_ptr())
}

/// What our response bodies hand to hyper.
#[derive(Debug)]
pub(crate) enum SendBuf {
    /// These bytes.
    Bytes(Bytes),
    /// So many bytes, at most [`WINDOW`], of the file in the connection's next piece.
    File(usize),
}

impl Buf for SendBuf {
    fn remaining(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::File(left) => *left,
        }
    }

    // One chunk shows everything: hyper does not ask custom buffers for a second one (hyper #3650).
    fn chunk(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::File(left) => &MAPPING[..*left],
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Bytes(bytes) => bytes.advance(count),
            Self::File(left) => {
                assert!(
                    count <= *left,
                    "advanced {count} past the {left} bytes of a marker"
                );
                *left -= count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_known_by_address_at_every_length_and_ordinary_zeros_are_not() {
        let mut marker = SendBuf::File(WINDOW);
        assert!(is_marker(marker.chunk()));
        marker.advance(WINDOW - 1);
        assert_eq!(marker.remaining(), 1);
        assert!(is_marker(marker.chunk()));
        marker.advance(1);
        assert!(
            !is_marker(marker.chunk()),
            "an empty slice stands for nothing"
        );
        assert!(!is_marker(&vec![0; WINDOW]));
        assert!(!is_marker(SendBuf::Bytes(Bytes::from_static(b"x")).chunk()));
    }
}
