//! What an operation gives back: a body, and what the log should know.
//!
//! A body is given, not sent: operations say which bytes, and the outermost service of the
//! connection decides how they travel (copied, or by sendfile). Through axum a file travels as an
//! extension beside an empty body; see [`into_axum`].

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Response};
use twintree_store::{BucketName, ObjectKey};

use crate::auth::Principal;

/// The body of a reply.
#[derive(Debug, Default)]
pub enum ReplyBody {
    /// No bytes. A reply to HEAD sets Content-Length itself.
    #[default]
    Empty,
    /// These bytes.
    Bytes(Bytes),
    /// Bytes of an open file.
    File(FileBody),
    /// Bytes that are made while they are sent: nobody knows yet how many.
    Stream(axum::body::Body),
}

impl ReplyBody {
    /// Says how many bytes the body has, as far as that is known.
    pub fn len(&self) -> u64 {
        match self {
            Self::Empty | Self::Stream(_) => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.len,
        }
    }

    /// Says whether the body has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && !matches!(self, Self::Stream(_))
    }
}

impl From<Bytes> for ReplyBody {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<String> for ReplyBody {
    fn from(text: String) -> Self {
        Self::Bytes(text.into())
    }
}

impl From<Vec<u8>> for ReplyBody {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// A run of bytes of an open file, and the question whether the file is still what it was.
#[derive(Clone)]
pub struct FileBody {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) remote: bool,
    pub(crate) copied: bool,
    unchanged: Arc<dyn Fn() -> io::Result<bool> + Send + Sync>,
}

impl FileBody {
    /// Lends `len` bytes from `offset` of `file`. `unchanged` is asked before every run of bytes that is
    /// sent, and once more before the last few: where it says no, the connection is cut, so that no
    /// client takes a torn body for a whole one.
    pub fn new(
        file: Arc<File>,
        offset: u64,
        len: u64,
        unchanged: impl Fn() -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        Self {
            file,
            offset,
            len,
            remote: false,
            copied: false,
            unchanged: Arc::new(unchanged),
        }
    }

    /// Says that the file lies on another machine, where no call is known not to wait: it is only
    /// touched on the blocking pool.
    pub fn on_remote_filesystem(mut self, remote: bool) -> Self {
        self.remote = remote;
        self
    }

    /// Says that its bytes must be our own before they are checked and sent. Linux: sendfile queues the file's
    /// pages, not copies, and who writes in place changes what the peer has not read yet.
    pub fn copied(mut self, copied: bool) -> Self {
        self.copied = copied;
        self
    }

    /// Checks the file.
    ///
    /// # Errors
    /// `InvalidData` when the file is not what it was, else what the check met.
    pub(crate) fn check(&self) -> io::Result<()> {
        if (self.unchanged)()? {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file changed while it was sent",
        ))
    }
}

impl std::fmt::Debug for FileBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileBody")
            .field("offset", &self.offset)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// How the body of an answer was brought to the socket; for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SentBy {
    /// It was in memory: made there, or read from the page cache on the async thread.
    #[default]
    Inline,
    /// The answer has no body.
    Nothing,
    /// The kernel sent the file.
    Sendfile,
    /// The file was copied from the page cache on the async thread.
    Nowait,
    /// A thread of the blocking pool read it.
    Blocking,
}

impl SentBy {
    /// Names it for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Nothing => "-",
            Self::Sendfile => "sendfile",
            Self::Nowait => "nowait",
            Self::Blocking => "blocking",
        }
    }
}

/// What the request's log line takes from the operation: an extension of the response.
#[derive(Clone, Debug, Default)]
pub struct Noted {
    /// The operation's S3 name; empty where the request named none.
    pub operation: &'static str,
    /// The bucket it named.
    pub bucket: Option<BucketName>,
    /// The key it named.
    pub key: Option<ObjectKey>,
    /// Whose key signed it; `None` where nobody's was verified: what was merely claimed may be anything.
    pub principal: Option<Principal>,
    /// How the answer was found; a file body says better.
    pub sent_by: SentBy,
    /// The error code, and for the server's own failures the cause.
    pub failure: Option<String>,
}

/// Turns a reply into what axum carries: exact Content-Length, and a file as an extension.
pub fn into_axum(reply: Response<ReplyBody>) -> Response<axum::body::Body> {
    let (mut head, body) = reply.into_parts();
    let status = head.status;
    let bodiless = status.is_informational() || status == 204 || status == 304;
    let is_known = !matches!(body, ReplyBody::Stream(_));
    if is_known && !bodiless && !head.headers.contains_key(CONTENT_LENGTH) {
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let body = match body {
        ReplyBody::Empty => axum::body::Body::empty(),
        ReplyBody::Bytes(bytes) => axum::body::Body::from(bytes),
        ReplyBody::File(file) => {
            head.extensions.insert(file);
            axum::body::Body::empty()
        }
        ReplyBody::Stream(body) => body,
    };
    Response::from_parts(head, body)
}
