//! Entity tags: of a body (MD5), of a multipart upload, and the derived one of a file nobody PUT.

use std::fmt;

/// An entity tag; displays without quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ETag {
    /// The MD5 of the body.
    Md5([u8; 16]),
    /// The MD5 of the parts' MD5s, and how many parts there were.
    Multipart([u8; 16], u16),
    /// 128 bits derived from inode, size, mtime and ctime; shows as 32 hex digits and `-1`.
    Derived(u64, u64),
    /// `etag = "crc64"`: the CRC64NVME and 64 random bits; shows as 32 hex digits and `-1`.
    Opaque([u8; 16]),
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |f: &mut fmt::Formatter<'_>, bytes: &[u8]| {
            bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
        };
        match self {
            Self::Md5(md5) => hex(f, md5),
            Self::Multipart(md5, parts) => hex(f, md5).and_then(|()| write!(f, "-{parts}")),
            Self::Derived(h1, h2) => write!(f, "{h1:016x}{h2:016x}-1"),
            Self::Opaque(bytes) => hex(f, bytes).and_then(|()| write!(f, "-1")),
        }
    }
}

/// What `If-Match` or `If-None-Match` names: entity tags without quotes, or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ETagList {
    /// `*`: whatever is there.
    Any,
    /// These, as the client wrote them, without quotes and `W/`.
    Tags(Vec<String>),
}
