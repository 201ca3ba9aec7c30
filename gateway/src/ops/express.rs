//! The express way's GetObject and HeadObject: of a whole object, by a signed head, where nothing waits. The parts are
//! those of the whole way; what this adds is the order, without a thread or a future between them.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http::Method;
use twintree_store::{AtOnce, BucketName, ObjectInfo, ObjectKey, Portrait, Ready};

use super::get_object::{INLINE, lend};
use super::read_plan::Asked;
use crate::auth::{self, Fields, Head, Payload, Verified};
use crate::call::{Gateway, Reply};
use crate::range::Slice;
use crate::reply::{FileBody, Noted, SentBy};
use crate::route;
use crate::server::{Express, ExpressHead, Expressed, Intent, pages, push_field};

/// Bytes that are read of a file before its size is known: all of what is small.
const FIRST: usize = 16 << 10;

impl Express for Gateway {
    fn answer(&self, head: &ExpressHead<'_>, out: &mut Vec<u8>) -> Option<Expressed> {
        let fields = Fields::Few(head.fields);
        let (bucket, key, verified) = self.verified(head)?;
        if matches!(verified.payload, Payload::Chunked(_)) {
            return None;
        }
        let checksum = fields.get("x-amz-checksum-mode");
        let checksum = checksum.is_some_and(|mode| mode.eq_ignore_ascii_case(b"ENABLED"));
        let wanted = Wanted {
            body: head.method == Method::GET,
            checksum,
        };
        let mut file = None;
        let body = match self.store.open_at_once(&bucket, &key) {
            Some(opened) => match portrayed(opened, &wanted, out) {
                Look::Answered(body) => body,
                Look::Lent(lent) => {
                    file = Some(lent);
                    0
                }
                Look::Declined => return None,
                Look::Other(opened) => {
                    let found = self.store.bucket_cached(&bucket).ok()?;
                    described(&found.ready_of(opened)?, &wanted, out)?
                }
            },
            None => {
                let found = self.store.bucket_cached(&bucket).ok()?;
                described(&found.open_ready(&key)?, &wanted, out)?
            }
        };
        Some(Expressed {
            noted: Noted {
                operation: if wanted.body {
                    "GetObject"
                } else {
                    "HeadObject"
                },
                bucket: Some(bucket),
                key: Some(key),
                principal: Some(verified.principal),
                // A file says better.
                sent_by: if body > 0 {
                    SentBy::Inline
                } else {
                    SentBy::Nothing
                },
                failure: None,
            },
            body,
            file,
        })
    }

    fn intend(&self, head: &ExpressHead<'_>) -> Option<Box<dyn Intent>> {
        self.small_put(head)
    }
}

impl Gateway {
    /// Says what a head asks for, and who asks.
    pub(super) fn verified(
        &self,
        head: &ExpressHead<'_>,
    ) -> Option<(BucketName, ObjectKey, Verified)> {
        let fields = Fields::Few(head.fields);
        let host = fields.text("host")?.ok()?;
        let (bucket, key) =
            route::object_in_path(head.path, &head.method, host, &self.settings.domains)?;
        let verified = auth::verify(
            &Head {
                method: &head.method,
                path: head.path,
                query: None,
                headers: fields,
                authority: None,
                virtual_bucket: None,
            },
            &self.credentials,
            head.received,
        );
        Some((bucket, key, verified.ok()?))
    }
}

/// What is asked for.
struct Wanted {
    /// GET, and not HEAD.
    body: bool,
    checksum: bool,
}

impl Wanted {
    /// Is it a body that is not read into memory?
    fn is_long(&self, info: &ObjectInfo) -> bool {
        self.body && info.size > INLINE
    }

    /// Writes the fields and the empty line. `None`: not for here.
    fn write_head(&self, portrait: &Portrait, out: &mut Vec<u8>) -> Option<()> {
        if portrait.info.in_flux {
            return None;
        }
        let shown = |info: &ObjectInfo| head_of(&Asked::whole(info, self.checksum));
        out.extend_from_slice(portrait.head(usize::from(self.checksum), shown));
        Some(())
    }
}

/// What the first look gave.
enum Look<'a> {
    /// So many bytes of body were written.
    Answered(usize),
    /// The head was written; this comes after it.
    Lent(FileBody),
    /// It is not for here.
    Declined,
    /// It has no portrait.
    Other(AtOnce<'a>),
}

/// Had the last file a portrait and a small body, so that the next is likely to have both?
static EXPECTS_SMALL: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// What is read of a file before it is known whose it is.
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Answers of a file that has a portrait. Where the last one had, it is read first, and looked at once.
fn portrayed<'a>(mut opened: AtOnce<'a>, wanted: &Wanted, out: &mut Vec<u8>) -> Look<'a> {
    BYTES.with_borrow_mut(|bytes| {
        bytes.resize(INLINE as usize, 0);
        let mut read = 0;
        let expected = EXPECTS_SMALL.load(Relaxed);
        if wanted.body && expected {
            read = pages::fill_now(&opened.file, 0, &mut bytes[..FIRST]).unwrap_or(0);
        }
        let portrait = opened.portrait();
        let is_small = |portrait: &Arc<Portrait>| !wanted.is_long(&portrait.info);
        if portrait.as_ref().is_some_and(is_small) != expected {
            EXPECTS_SMALL.store(!expected, Relaxed);
        }
        let Some(portrait) = portrait else {
            return Look::Other(opened);
        };
        let before = out.len();
        if wanted.write_head(&portrait, out).is_none() {
            return Look::Declined;
        }
        if wanted.is_long(&portrait.info) {
            let slice = Slice {
                start: 0,
                length: portrait.info.size,
            };
            return match opened.watched(&portrait) {
                Some(watched) => Look::Lent(lend(watched, slice)),
                None => Look::Declined,
            };
        }
        let length = portrait.info.size.min(INLINE) as usize;
        if !wanted.body || length == 0 {
            return Look::Answered(0);
        }
        // The rest, and then bytes count only if the file is what it was.
        if read < length {
            let rest = &mut bytes[read..length];
            read += pages::fill_now(&opened.file, read as u64, rest).unwrap_or(0);
            let again = opened.portrait();
            if read < length || again.is_none_or(|again| !Arc::ptr_eq(&again, &portrait)) {
                out.truncate(before);
                return Look::Other(opened);
            }
        }
        out.extend_from_slice(&bytes[..length]);
        Look::Answered(length)
    })
}

/// Answers of any file whose answer waits for nothing.
fn described(ready: &Ready<'_>, wanted: &Wanted, out: &mut Vec<u8>) -> Option<usize> {
    if wanted.is_long(&ready.portrait.info) {
        return None;
    }
    wanted.write_head(&ready.portrait, out)?;
    let length = usize::try_from(ready.portrait.info.size).ok()?;
    if !wanted.body || length == 0 {
        return Some(0);
    }
    let read = pages::append_now(&ready.file, 0, length, out).ok()?;
    // Bytes count only if the file is, after reading them, what it was when it was described.
    (read == length && ready.unchanged().ok()?).then_some(length)
}

/// What follows the fields that every answer begins with, to the empty line.
fn head_of(reply: &Reply) -> Box<[u8]> {
    let mut out = Vec::new();
    for (name, value) in reply.headers() {
        push_field(&mut out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.into()
}
