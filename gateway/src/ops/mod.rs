//! The operations: one file each, named after it, and the one place that chooses among them.
//!
//! By here a request is parsed and its signature verified. What every operation on a bucket shares is checked before
//! the choice: that the bucket is there, and that it is the expected owner's. What is recognised and not built
//! answers 501.

mod abort_multipart_upload;
mod acl;
mod answer;
mod bucket_config;
mod bucket_tagging;
mod complete_multipart_upload;
mod copy_object;
pub(crate) mod copy_source;
mod create_bucket;
mod create_multipart_upload;
mod delete_bucket;
mod delete_object;
mod delete_objects;
mod express;
mod express_put;
mod get_bucket_location;
pub(crate) mod get_object;
mod get_object_attributes;
mod head_bucket;
pub(crate) mod head_object;
mod late;
mod list_buckets;
mod list_multipart_uploads;
mod list_object_versions;
mod list_objects;
mod list_objects_v2;
mod list_parts;
pub(crate) mod listing;
mod object_headers;
mod object_lock;
mod object_tagging;
mod open_object;
mod owner;
mod post_object;
pub(crate) mod put_object;
mod read_plan;
mod upload_part;
mod upload_part_copy;
mod version;

use bytes::Bytes;
use http::StatusCode;
use twintree_store::{Bucket, ObjectKey};

use crate::body::RequestBody;
use crate::call::{Call, Reply};
use crate::error::{S3Error, S3Result};
use crate::route::{Operation, Route};
use crate::xml::MAX_DOCUMENT;

pub(crate) use post_object::refuse_form;

/// The largest document of everything but a list of keys or parts, in bytes.
const SMALL_DOCUMENT: usize = 256 << 10;

/// Runs the operation that a verified request asks for.
///
/// # Errors
/// What the operation says; `NotImplemented` for what is not built.
pub(crate) async fn dispatch(call: &Call, route: Route, body: RequestBody) -> S3Result<Reply> {
    let takes_frames = matches!(
        route.operation,
        Operation::PutObject | Operation::UploadPart
    );
    if body.is_framed() && !takes_frames {
        return Err(S3Error::invalid_request(
            "aws-chunked bodies are for PutObject and UploadPart only.",
        ));
    }
    let Some(name) = &route.bucket else {
        return Box::pin(service(call, route.operation)).await;
    };
    if route.operation == Operation::CreateBucket {
        let document = Box::pin(document(call, body, SMALL_DOCUMENT)).await?;
        return Box::pin(create_bucket::create_bucket(call, name, &document)).await;
    }
    owner::check_expected(call, name).await?;
    match (&route.key, route.operation) {
        // The hot ones resolve the bucket themselves, on the way that never waits.
        (Some(key), Operation::GetObject) => get_object::get_object(call, name, key).await,
        (Some(key), Operation::HeadObject) => head_object::head_object(call, name, key).await,
        // Boxed: in place the largest of them would make every request's future so large, and it is moved about.
        (Some(key), Operation::PutObject) => {
            Box::pin(put_object::put_object(call, name, key, body)).await
        }
        (Some(key), operation) => {
            let bucket = call.bucket(name).await?;
            Box::pin(on_object(call, operation, &bucket, key, body)).await
        }
        (None, operation) => {
            let bucket = call.bucket(name).await?;
            Box::pin(on_bucket(call, operation, &bucket, body)).await
        }
    }
}

async fn service(call: &Call, operation: Operation) -> S3Result<Reply> {
    match operation {
        Operation::ListBuckets => list_buckets::list_buckets(call).await,
        Operation::HeadService => Ok(answer::empty(StatusCode::OK)),
        other => Err(S3Error::not_implemented(other.name())),
    }
}

async fn on_bucket(
    call: &Call,
    operation: Operation,
    bucket: &Bucket,
    body: RequestBody,
) -> S3Result<Reply> {
    match operation {
        Operation::HeadBucket => head_bucket::head_bucket(call, bucket).await,
        Operation::DeleteBucket => delete_bucket::delete_bucket(call, bucket.name()).await,
        Operation::GetBucketLocation => {
            get_bucket_location::get_bucket_location(call, bucket).await
        }
        Operation::ListObjects => list_objects::list_objects(call, bucket).await,
        Operation::ListObjectsV2 => list_objects_v2::list_objects_v2(call, bucket).await,
        Operation::ListObjectVersions => {
            list_object_versions::list_object_versions(call, bucket).await
        }
        Operation::DeleteObjects => {
            let document = document(call, body, MAX_DOCUMENT).await?;
            delete_objects::delete_objects(bucket, &document).await
        }
        Operation::GetBucketConfig(config) => bucket_config::get(call, bucket, config).await,
        Operation::ListBucketConfigs(config) => bucket_config::list(config),
        Operation::PutBucketConfig(config) => {
            let document = document(call, body, SMALL_DOCUMENT).await?;
            bucket_config::put(call, bucket, config, &document).await
        }
        Operation::DeleteBucketConfig(config) => bucket_config::delete(bucket, config).await,
        Operation::ListMultipartUploads => {
            list_multipart_uploads::list_multipart_uploads(call, bucket).await
        }
        other => Err(S3Error::not_implemented(other.name())),
    }
}

async fn on_object(
    call: &Call,
    operation: Operation,
    bucket: &Bucket,
    key: &ObjectKey,
    body: RequestBody,
) -> S3Result<Reply> {
    match operation {
        Operation::CopyObject => copy_object::copy_object(call, bucket, key).await,
        Operation::DeleteObject => delete_object::delete_object(call, bucket, key).await,
        Operation::GetObjectAttributes => {
            get_object_attributes::get_object_attributes(call, bucket, key).await
        }
        Operation::GetObjectTagging => object_tagging::get_object_tagging(call, bucket, key).await,
        Operation::PutObjectTagging => {
            let document = document(call, body, SMALL_DOCUMENT).await?;
            object_tagging::put_object_tagging(call, bucket, key, &document).await
        }
        Operation::DeleteObjectTagging => {
            object_tagging::delete_object_tagging(call, bucket, key).await
        }
        Operation::GetObjectAcl => acl::get_object_acl(call, bucket, key).await,
        Operation::PutObjectAcl => {
            let document = document(call, body, SMALL_DOCUMENT).await?;
            acl::put_object_acl(call, bucket, key, &document).await
        }
        Operation::GetObjectRetention
        | Operation::PutObjectRetention
        | Operation::GetObjectLegalHold
        | Operation::PutObjectLegalHold => object_lock::refuse(call, bucket, key).await,
        Operation::CreateMultipartUpload => {
            create_multipart_upload::create_multipart_upload(call, bucket, key).await
        }
        Operation::UploadPart => upload_part::upload_part(call, bucket, key, body).await,
        Operation::UploadPartCopy => upload_part_copy::upload_part_copy(call, bucket, key).await,
        Operation::CompleteMultipartUpload => {
            complete_multipart_upload::complete_multipart_upload(call, bucket, key, body).await
        }
        Operation::AbortMultipartUpload => {
            abort_multipart_upload::abort_multipart_upload(call, bucket, key).await
        }
        Operation::ListParts => list_parts::list_parts(call, bucket, key).await,
        other => Err(S3Error::not_implemented(other.name())),
    }
}

/// Reads a request's document and verifies its digests.
async fn document(call: &Call, body: RequestBody, limit: usize) -> S3Result<Bytes> {
    body.into_document(&call.parts.headers, limit).await
}

#[cfg(test)]
mod bucket_tests;
#[cfg(test)]
mod copy_tests;
#[cfg(test)]
mod list_tests;
#[cfg(test)]
mod mount_tests;
#[cfg(test)]
mod multipart_tests;
#[cfg(test)]
mod object_tests;
#[cfg(test)]
mod put_tests;
#[cfg(test)]
mod read_tests;
#[cfg(test)]
mod testing;
