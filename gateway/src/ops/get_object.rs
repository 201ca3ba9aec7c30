//! GetObject: an object's bytes, whole, a range or a part.
//!
//! Up to 64 KiB are read and answered on the async thread where the page cache has them. A longer body is
//! only named here ([`FileBody`]); the connection sends it.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use twintree_store::{BucketName, Object, ObjectKey, StoreError, Watched};

use super::open_object::{Opened, Opening};
use super::read_plan::{Asked, Plan};
use crate::call::{Call, Reply, blocking};
use crate::error::{Code, S3Error};
use crate::range::Slice;
use crate::reply::{FileBody, ReplyBody, SentBy};
use crate::server::pages::{self, Now};

/// The longest body that is read into memory and answered in one write, in bytes.
pub(super) const INLINE: u64 = 64 << 10;
/// How often a small file that changes while it is read is opened again.
const TRIES: u32 = 4;

/// Answers with the object's bytes.
///
/// # Errors
/// `NoSuchBucket`, `NoSuchKey`, `NoSuchVersion`, `PreconditionFailed`, `InvalidRange`, `InvalidPartNumber`,
/// and what the disk says.
pub(crate) async fn get_object(
    call: &Call,
    bucket: &BucketName,
    key: &ObjectKey,
) -> Result<Reply, S3Error> {
    let asked = Asked::parse(call, key)?;
    for _ in 0..TRIES {
        let Some((opened, plan)) = planned(call, &asked, asked.opening(bucket, key)).await? else {
            continue;
        };
        let Plan { mut reply, slice } = plan;
        let found = match slice
            .filter(|slice| slice.length > 0)
            .zip(opened.object.watched())
        {
            None => Some((ReplyBody::Empty, opened.sent_by)),
            Some((slice, watched)) if slice.length > INLINE => {
                // Beside a mount somebody may write in place after the last check.
                let copied = opened.object.is_claimed() && call.gateway.store.changes().is_heard();
                let body = lend(watched, slice).copied(copied);
                let body = body.on_remote_filesystem(opened.object.remote);
                Some((ReplyBody::File(body), opened.sent_by))
            }
            Some((slice, Watched { file, .. })) => {
                read(key, &opened.object, file, slice, opened.sent_by).await?
            }
        };
        // Without bytes the file changed under the read: what was planned from the old look is not true.
        if let Some((body, sent_by)) = found {
            *reply.body_mut() = body;
            reply.extensions_mut().insert(sent_by);
            return Ok(reply);
        }
    }
    Err(S3Error::new(Code::SlowDown)
        .message("The file is being rewritten. Please try again.")
        .with("Key", key.as_str()))
}

/// Opens the object and plans the answer; what somebody is writing is a snapshot, where there can be one. `None`: it
/// changed meanwhile.
async fn planned(
    call: &Call,
    asked: &Asked,
    opening: Opening<'_>,
) -> Result<Option<(Opened, Plan)>, S3Error> {
    let opened = opening.open(call).await?;
    let plan = asked.plan(&call.query, &opened)?;
    let wanted = plan.slice.filter(|slice| slice.length > 0);
    let Some(slice) = wanted.filter(|_| opened.object.info.in_flux) else {
        return Ok(Some((opened, plan)));
    };
    let Some(opened) = opening.still(call, opened, slice).await? else {
        return Ok(None);
    };
    let plan = asked.plan(&call.query, &opened)?;
    let slice = plan
        .slice
        .map_or(0..0, |slice| slice.start..slice.start + slice.length);
    Ok(opened.object.holds(&slice).then_some((opened, plan)))
}

/// Lends the bytes of a file for as long as it is what it was.
pub(super) fn lend(watched: Watched, slice: Slice) -> FileBody {
    let file = Arc::clone(&watched.file);
    FileBody::new(file, slice.start, slice.length, move || watched.unchanged())
}

/// What reading a small slice found.
enum Small {
    Bytes(Bytes),
    Changed,
    WouldWait,
}

/// Reads a small slice; `None` where the file changed meanwhile.
async fn read(
    key: &ObjectKey,
    object: &Object,
    file: Arc<File>,
    slice: Slice,
    mut sent_by: SentBy,
) -> Result<Option<(ReplyBody, SentBy)>, S3Error> {
    let failed = |error| S3Error::from(StoreError::from_io(key.as_str(), error));
    let mut small = match object.remote || object.is_snapshot() {
        true => Small::WouldWait,
        false => read_now(object, &file, slice).map_err(failed)?,
    };
    if matches!(small, Small::WouldWait) {
        let watched = object.clone();
        small = blocking(move || Ok(read_waiting(&watched, &file, slice)))
            .await?
            .map_err(failed)?;
        sent_by = SentBy::Blocking;
    }
    Ok(match small {
        Small::Bytes(bytes) => Some((ReplyBody::Bytes(bytes), sent_by)),
        Small::Changed | Small::WouldWait => None,
    })
}

fn read_now(object: &Object, file: &File, slice: Slice) -> io::Result<Small> {
    match pages::read_now(file, slice.start, length(slice)) {
        Ok(Now::Read(bytes)) if bytes.len() == length(slice) => checked(object, bytes),
        Ok(Now::Read(_) | Now::WouldWait) => Ok(Small::WouldWait),
        Err(error) => shrank(error),
    }
}

fn read_waiting(object: &Object, file: &File, slice: Slice) -> io::Result<Small> {
    match pages::read_waiting(file, slice.start, length(slice)) {
        Ok(bytes) => checked(object, bytes),
        Err(error) => shrank(error),
    }
}

fn length(slice: Slice) -> usize {
    usize::try_from(slice.length).expect("a small slice has at most 64 KiB")
}

/// Bytes count only if the file is, after reading them, what it was when it was described.
fn checked(object: &Object, bytes: Bytes) -> io::Result<Small> {
    Ok(if object.unchanged()? {
        Small::Bytes(bytes)
    } else {
        Small::Changed
    })
}

fn shrank(error: io::Error) -> io::Result<Small> {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        Ok(Small::Changed)
    } else {
        Err(error)
    }
}
