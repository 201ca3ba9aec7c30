//! CreateBucket: one directory under the root.

use std::sync::Arc;

use http::header::LOCATION;
use http::{HeaderName, HeaderValue, StatusCode};
use twintree_store::{BucketName, BucketSettings, Store, StoreError};

use super::answer;
use crate::call::{Call, Reply, blocking};
use crate::error::{Code, S3Error, S3Result};
use crate::{meta, xml};

const OBJECT_LOCK: HeaderName = HeaderName::from_static("x-amz-bucket-object-lock-enabled");
const OWNERSHIP: HeaderName = HeaderName::from_static("x-amz-object-ownership");

/// Makes a bucket.
///
/// # Errors
/// `InvalidBucketName`, `BucketAlreadyOwnedByYou`, `BucketAlreadyExists`, those of the document, `NotImplemented` for
/// object lock, `AccessControlListNotSupported`.
pub(crate) async fn create_bucket(
    call: &Call,
    name: &BucketName,
    document: &[u8],
) -> S3Result<Reply> {
    let name = BucketName::parse_new(name.as_str()).map_err(|reason| {
        let message = format!("The specified bucket is not valid: {reason}.");
        S3Error::new(Code::InvalidBucketName)
            .message(message)
            .with("BucketName", name.as_str())
    })?;
    let request = xml::create_bucket_request(document)?;
    refuse_unbuilt(call)?;
    let owner = call.principal.access_key_id.clone();
    let store = call.gateway.store.clone();
    let location = HeaderValue::try_from(format!("/{name}")).expect("a bucket's name is ASCII");
    blocking(move || {
        let settings = BucketSettings {
            location: request.location,
            owner: Some(owner.clone()),
            tags: request.tags,
            ..BucketSettings::default()
        };
        match store.create_bucket(&name, settings) {
            Err(StoreError::BucketExists(_)) => Err(exists(&store, &name, &owner)),
            made => Ok(made?),
        }
    })
    .await?;
    let mut reply = answer::empty(StatusCode::OK);
    reply.headers_mut().insert(LOCATION, location);
    Ok(reply)
}

/// Says whose the bucket is that is in the way. A file or a link of that name is nobody's bucket: who is told
/// that it is theirs would go on to write into it.
fn exists(store: &Arc<Store>, name: &BucketName, owner: &str) -> S3Error {
    let error = match store.bucket(name).and_then(|bucket| bucket.settings()) {
        Err(StoreError::NoSuchBucket(_)) => {
            let message = format!("{name:?} under the root is no directory.");
            S3Error::new(Code::BucketAlreadyExists).message(message)
        }
        Ok(found) if found.owner.as_ref().is_some_and(|found| found != owner) => {
            S3Error::new(Code::BucketAlreadyExists)
        }
        _ => S3Error::new(Code::BucketAlreadyOwnedByYou),
    };
    error.with("BucketName", name.as_str())
}

/// A bucket that silently lacks what was asked for would be a lie.
fn refuse_unbuilt(call: &Call) -> S3Result<()> {
    let headers = &call.parts.headers;
    if headers
        .get(OBJECT_LOCK)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
    {
        return Err(S3Error::not_implemented(OBJECT_LOCK.as_str()));
    }
    if headers
        .get(OWNERSHIP)
        .is_some_and(|value| value != "BucketOwnerEnforced")
    {
        return Err(S3Error::not_implemented(OWNERSHIP.as_str()));
    }
    meta::refuse_access_lists(headers)
}
