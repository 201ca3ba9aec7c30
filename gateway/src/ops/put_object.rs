//! PutObject: a body becomes an object, all of it or nothing.
//!
//! Everything that the head tells is checked before the body is asked for. A short body is received into
//! memory and takes one hop to the blocking pool for all that touches the disk; a longer one goes to its
//! staged file while it arrives. Length, signatures and digests are compared before the store publishes.

use bytes::Bytes;
use http::header::ETAG;
use http::{HeaderValue, Response};
use twintree_store::{
    Access, Bucket, BucketName, ChecksumType, Meta, ObjectChecksum, ObjectKey, Published, Put,
    Stage, StoreError, WriteConditions,
};

use crate::body::{ObjectBody, OffThread, Received, RequestBody, Sink, write_all_at};
use crate::call::{Call, Reply, blocking};
use crate::checksum;
use crate::conditional::write_conditions;
use crate::error::{S3Error, S3Result};
use crate::meta;
use crate::reply::ReplyBody;

/// The longest body that is received into memory, in bytes: one batch.
const SHORT: u64 = 256 << 10;

/// Stores a body under a key.
///
/// # Errors
/// Those of the headers ([`meta`], [`checksum`]), of the body ([`ObjectBody`]), `PreconditionFailed`, `NoSuchKey` for
/// If-Match on nothing, and what the disk says. The old object stays.
pub(crate) async fn put_object(
    call: &Call,
    bucket: &BucketName,
    key: &ObjectKey,
    body: RequestBody,
) -> S3Result<Reply> {
    let bucket = &call.bucket(bucket).await?;
    let headers = &call.parts.headers;
    if let Some(id) = call.query.get("versionId") {
        let message = "This operation does not accept a version-id.";
        return Err(S3Error::invalid_argument("versionId", id, message));
    }
    meta::refuse_unbuilt(headers)?;
    let said = Said {
        meta: meta::from_headers(headers)?,
        conditions: write_conditions(headers),
        synced: bucket.is_strict(),
    };
    let body = ObjectBody::open(
        body,
        &call.parts,
        bucket.etag_kind(),
        call.gateway.settings.max_put,
    )?;
    let published = match body.length() {
        Some(length) if length <= SHORT => put_short(bucket, key, said, body).await?,
        length => put_long(bucket, key, said, body, length).await?,
    };
    Ok(reply(&published))
}

/// What the head says of the object, apart from its bytes.
pub(super) struct Said {
    meta: Meta,
    conditions: WriteConditions,
    /// Is the body synced before the answer?
    synced: bool,
}

impl Said {
    /// The same without conditions.
    pub(super) fn unconditional(meta: Meta) -> Self {
        Self {
            meta,
            conditions: WriteConditions::default(),
            synced: false,
        }
    }

    pub(super) fn with(self, received: Received) -> Put {
        let checksum = received.checksum;
        let checksum = checksum.map(|checksum| ObjectChecksum {
            checksum,
            kind: ChecksumType::FullObject,
        });
        Put {
            digests: received.digests,
            meta: self.meta,
            checksum,
            conditions: self.conditions,
        }
    }
}

async fn put_short(
    bucket: &Bucket,
    key: &ObjectKey,
    said: Said,
    body: ObjectBody,
) -> S3Result<Published> {
    let (pieces, received): (Vec<Bytes>, Received) = body.collect().await?;
    let (bucket, key) = (bucket.clone(), key.clone());
    blocking(move || {
        let stage = bucket.stage(&key, Some(received.digests.length))?;
        write_all_at(&stage.file, 0, &pieces)
            .map_err(|error| StoreError::from_io(key.as_str(), error))?;
        Ok(bucket.publish(&key, stage, said.with(received))?)
    })
    .await
}

async fn put_long(
    bucket: &Bucket,
    key: &ObjectKey,
    said: Said,
    body: ObjectBody,
    length: Option<u64>,
) -> S3Result<Published> {
    let stage = {
        let (bucket, key, conditions) = (bucket.clone(), key.clone(), said.conditions.clone());
        blocking(move || {
            refuse_early(&bucket, &key, &conditions)?;
            Ok(OffThread::new(bucket.stage(&key, length)?))
        })
        .await?
    };
    let sink = Sink {
        file: stage.file.clone(),
        offset: 0,
        remote: stage.remote,
        room: stage.room,
        synced: said.synced,
        guard: None,
    };
    let received = body.receive(sink).await?;
    let (bucket, key) = (bucket.clone(), key.clone());
    blocking(move || {
        let stage: Stage = stage.into_inner();
        Ok(bucket.publish(&key, stage, said.with(received))?)
    })
    .await
}

/// Refuses a long body for which the outcome is certain: the store decides again when it publishes, but then the
/// client has sent gigabytes. A recorded ETag that has yet to be verified is never taken for certain.
fn refuse_early(bucket: &Bucket, key: &ObjectKey, conditions: &WriteConditions) -> S3Result<()> {
    if conditions.if_match.is_none() && conditions.if_none_match.is_none() {
        return Ok(());
    }
    match bucket.open(key, Access::Blocking) {
        Ok(object)
            if conditions
                .if_none_match
                .as_ref()
                .is_some_and(|list| object.info.matches(list)) =>
        {
            Err(StoreError::PreconditionFailed("If-None-Match").into())
        }
        Err(error @ StoreError::NoSuchKey(_)) if conditions.if_match.is_some() => Err(error.into()),
        _ => Ok(()),
    }
}

pub(super) fn reply(published: &Published) -> Reply {
    let mut reply = Response::new(ReplyBody::Empty);
    let etag = HeaderValue::try_from(format!("\"{}\"", published.etag))
        .expect("hex digits and quotes are legal");
    reply.headers_mut().insert(ETAG, etag);
    checksum::add_headers(reply.headers_mut(), &published.checksum, None);
    reply
}
