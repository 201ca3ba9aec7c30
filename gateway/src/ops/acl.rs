//! Access lists of buckets and objects: always the owner's FULL_CONTROL, and nothing else can be put.

use http::StatusCode;
use twintree_store::{Access, Bucket, ObjectKey};

use super::version::Version;
use super::{answer, owner};
use crate::call::{Call, Reply, blocking};
use crate::error::{Code, S3Error, S3Result};
use crate::xml::Writer;
use crate::{meta, xml};

/// Answers the list of a bucket.
///
/// # Errors
/// What the disk says.
pub(crate) async fn get_bucket_acl(call: &Call, bucket: &Bucket) -> S3Result<Reply> {
    Ok(answer::document(owners_list(
        &owner::of(call, bucket).await?,
    )))
}

/// Takes a bucket's list that grants the owner alone.
///
/// # Errors
/// `AccessControlListNotSupported`, `MalformedACLError`.
pub(crate) fn put_bucket_acl(call: &Call, document: &[u8]) -> S3Result<Reply> {
    require_private(call, document)?;
    Ok(answer::empty(StatusCode::OK))
}

/// Answers the list of an object.
///
/// # Errors
/// `NoSuchKey`, `NoSuchVersion`, and what the disk says.
pub(crate) async fn get_object_acl(
    call: &Call,
    bucket: &Bucket,
    key: &ObjectKey,
) -> S3Result<Reply> {
    let version = require_object(call, bucket, key).await?;
    let mut reply = answer::document(owners_list(&owner::of(call, bucket).await?));
    version.name_in(&mut reply);
    Ok(reply)
}

/// Takes an object's list that grants the owner alone.
///
/// # Errors
/// `NoSuchKey`, `NoSuchVersion`, `AccessControlListNotSupported`, `MalformedACLError`.
pub(crate) async fn put_object_acl(
    call: &Call,
    bucket: &Bucket,
    key: &ObjectKey,
    document: &[u8],
) -> S3Result<Reply> {
    let version = require_object(call, bucket, key).await?;
    require_private(call, document)?;
    let mut reply = answer::empty(StatusCode::OK);
    version.name_in(&mut reply);
    Ok(reply)
}

async fn require_object(call: &Call, bucket: &Bucket, key: &ObjectKey) -> S3Result<Version> {
    let version = Version::of(&call.query)?;
    let (bucket, key) = (bucket.clone(), key.clone());
    blocking(move || Ok(bucket.open(&key, Access::Blocking).map(drop)?)).await?;
    Ok(version)
}

fn require_private(call: &Call, document: &[u8]) -> S3Result<()> {
    meta::refuse_access_lists(&call.parts.headers)?;
    if document.is_empty() {
        let canned = call.parts.headers.contains_key("x-amz-acl");
        return if canned {
            Ok(())
        } else {
            Err(S3Error::new(Code::MissingSecurityHeader).with("MissingHeaderName", "x-amz-acl"))
        };
    }
    if xml::is_private_acl(document)? {
        Ok(())
    } else {
        Err(S3Error::new(Code::AccessControlListNotSupported))
    }
}

fn owners_list(id: &str) -> Writer {
    let mut xml = Writer::s3("AccessControlPolicy", 0);
    owner::write(&mut xml, "Owner", id);
    xml.open("AccessControlList");
    xml.open("Grant");
    xml.open_with(
        "Grantee",
        "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"CanonicalUser\"",
    );
    xml.text("ID", id);
    xml.text("DisplayName", id);
    xml.close("Grantee");
    xml.plain("Permission", "FULL_CONTROL");
    xml.close("Grant");
    xml.close("AccessControlList");
    xml
}
