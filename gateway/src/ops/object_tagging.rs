//! Tags of an object, kept in the meta half of its record.

use http::StatusCode;
use twintree_store::{Access, Bucket, ObjectKey};

use super::answer;
use super::version::Version;
use crate::call::{Call, Reply, blocking};
use crate::error::S3Result;
use crate::xml::{self, TagLimits, Writer};

/// Answers the tags; none is an empty set.
///
/// # Errors
/// `NoSuchKey`, `NoSuchVersion`, and what the disk says.
pub(crate) async fn get_object_tagging(
    call: &Call,
    bucket: &Bucket,
    key: &ObjectKey,
) -> S3Result<Reply> {
    let version = Version::of(&call.query)?;
    let (bucket, key) = (bucket.clone(), key.clone());
    let tags = blocking(move || Ok(bucket.open(&key, Access::Blocking)?.info.meta.tags)).await?;
    let mut reply = answer::document(tag_set(&tags));
    version.name_in(&mut reply);
    Ok(reply)
}

/// Replaces the tags; content, ETag and Last-Modified stay.
///
/// # Errors
/// `MalformedXML`, `InvalidTag`, `NoSuchKey`, `NoSuchVersion`, and what the disk says.
pub(crate) async fn put_object_tagging(
    call: &Call,
    bucket: &Bucket,
    key: &ObjectKey,
    document: &[u8],
) -> S3Result<Reply> {
    let version = Version::of(&call.query)?;
    set(
        bucket,
        key,
        xml::tagging_request(document, TagLimits::OBJECT)?,
    )
    .await?;
    let mut reply = answer::empty(StatusCode::OK);
    version.name_in(&mut reply);
    Ok(reply)
}

/// Removes the tags.
///
/// # Errors
/// `NoSuchKey`, `NoSuchVersion`, and what the disk says.
pub(crate) async fn delete_object_tagging(
    call: &Call,
    bucket: &Bucket,
    key: &ObjectKey,
) -> S3Result<Reply> {
    let version = Version::of(&call.query)?;
    set(bucket, key, Vec::new()).await?;
    let mut reply = answer::empty(StatusCode::NO_CONTENT);
    version.name_in(&mut reply);
    Ok(reply)
}

async fn set(bucket: &Bucket, key: &ObjectKey, tags: Vec<(String, String)>) -> S3Result<()> {
    let (bucket, key) = (bucket.clone(), key.clone());
    blocking(move || Ok(bucket.set_tags(&key, tags)?)).await
}

/// Writes the document of a tag set, of objects and buckets, by key: a set has no other order.
pub(crate) fn tag_set(tags: &[(String, String)]) -> Writer {
    let mut xml = Writer::s3("Tagging", 256 + 96 * tags.len());
    let mut sorted: Vec<_> = tags.iter().collect();
    sorted.sort();
    xml.open("TagSet");
    for (key, value) in sorted {
        xml.open("Tag");
        xml.text("Key", key);
        xml.text("Value", value);
        xml.close("Tag");
    }
    xml.close("TagSet");
    xml
}
