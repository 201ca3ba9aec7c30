//! What can go wrong in the store, in terms a caller can act on. The gateway matches it without a
//! wildcard, so that a new variant breaks the build where it must be given an S3 code.

use std::io;

/// The store's result.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such directory under the root.
    #[error("bucket {0:?} does not exist")]
    NoSuchBucket(String),
    /// The directory is there already.
    #[error("bucket {0:?} exists")]
    BucketExists(String),
    /// Something of a person's is left in it; `found` names one such entry.
    #[error("bucket {bucket:?} is not empty: it holds {found:?}")]
    BucketNotEmpty {
        /// The bucket.
        bucket: String,
        /// One entry that is in the way.
        found: String,
    },
    /// The bucket is mapped to a directory in the configuration, and is not removed or renamed by a client.
    #[error("bucket {0:?} is mapped in the configuration of the server: take it out there")]
    Mapped(String),
    /// A root behind the bucket's has a directory of its name, which would be served once this one is gone.
    #[error(
        "bucket {0:?} stays: another root has a directory of that name, which would be served in its place"
    )]
    Covers(String),
    /// No object under this key.
    #[error("key {0:?} does not exist")]
    NoSuchKey(String),
    /// No upload with this id for this key.
    #[error("upload {0:?} does not exist")]
    NoSuchUpload(String),
    /// `keys = "posix-only"` and the key cannot be a path; `by` says what is in the way.
    #[error("key {key:?} cannot be a path: {by}")]
    KeyBlocked {
        /// The key.
        key: String,
        /// What is in the way, in words.
        by: String,
    },
    /// A name that we, the filesystem or the hide list keep back.
    #[error("the name {0:?} is reserved")]
    Reserved(String),
    /// The entry is a FIFO, socket or device.
    #[error("{key:?} is a {kind}, not an object")]
    NotAnObject {
        /// The key.
        key: String,
        /// What it is.
        kind: &'static str,
    },
    /// A symbolic link leads out of the bucket.
    #[error("{0:?} leads out of the bucket")]
    OutsideBucket(String),
    /// A write through a linked directory.
    #[error("{0:?} is reached through a symbolic link")]
    ThroughSymlink(String),
    /// A condition did not hold; the value is its header's name.
    #[error("precondition {0} does not hold")]
    PreconditionFailed(&'static str),
    /// A listed part is unknown or has another ETag.
    #[error("part {0} is unknown or differs")]
    InvalidPart(u16),
    /// The part list is not strictly ascending.
    #[error("the part list is not in ascending order")]
    InvalidPartOrder,
    /// A part that is not the last is below the minimum.
    #[error("part {number} has {size} bytes, fewer than {minimum}")]
    PartTooSmall {
        /// Its number.
        number: u16,
        /// Its size in bytes.
        size: u64,
        /// The least size in bytes.
        minimum: u64,
        /// Its ETag.
        etag: String,
    },
    /// The request contradicts the upload (algorithm, type, size); the text says how.
    #[error("{0}")]
    InvalidRequest(String),
    /// A checksum of the whole differs from what the client said.
    #[error("the {0} does not match what was received")]
    BadDigest(&'static str),
    /// ENOSPC or EDQUOT.
    #[error("no space left for {0}")]
    NoSpace(String),
    /// EROFS, or `--read-only`.
    #[error("{0} is read-only")]
    ReadOnly(String),
    /// EACCES or EPERM.
    #[error("permission denied: {0}")]
    Denied(String),
    /// EMFILE, ENFILE or ENOMEM: try again later.
    #[error("out of descriptors or memory: {0}")]
    Exhausted(String),
    /// The root (or a bucket's own disk) is not what it was when we started.
    #[error("{0} is not available")]
    Unavailable(String),
    /// [`crate::Access::Cached`] and an answer would need the disk: ask again with `Blocking`.
    #[error("the answer is not cached")]
    WouldBlock,
    /// Anything else that the system said.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with its operand.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreError {
    /// Turns a system error into the variant that a caller can act on; `what` names the operand.
    pub fn from_io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.raw_os_error() {
            Some(libc::ENOSPC) => Self::NoSpace(what),
            Some(libc::EDQUOT) => Self::NoSpace(format!("{what}: the disk quota is used up")),
            Some(libc::EROFS) => Self::ReadOnly(what),
            Some(libc::EACCES | libc::EPERM) => Self::Denied(what),
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Self::Exhausted(what),
            Some(libc::ENODEV | libc::ENXIO | libc::ESHUTDOWN | libc::ENOTCONN) => {
                Self::Unavailable(what)
            }
            // Somebody cut a file short that we are reading: it is whole again, or gone, the next time.
            None if source.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Unavailable(format!("{what}, which is being changed,"))
            }
            _ => Self::Io { what, source },
        }
    }
}
