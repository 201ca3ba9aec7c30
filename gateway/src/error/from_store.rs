//! What each failure of the store is called in S3. No wildcard: a new variant must be named here.

use twintree_store::StoreError;

use super::{Code, S3Error};

impl From<StoreError> for S3Error {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::NoSuchBucket(bucket) => {
                S3Error::new(Code::NoSuchBucket).with("BucketName", bucket)
            }
            StoreError::BucketExists(bucket) => {
                S3Error::new(Code::BucketAlreadyOwnedByYou).with("BucketName", bucket)
            }
            StoreError::BucketNotEmpty { bucket, found } => S3Error::new(Code::BucketNotEmpty)
                .message(format!(
                    "{}: it holds {found:?}",
                    Code::BucketNotEmpty.default_message()
                ))
                .with("BucketName", bucket),
            StoreError::Mapped(_) => denied(&text),
            StoreError::Covers(bucket) => S3Error::new(Code::InvalidBucketState)
                .message(text)
                .with("BucketName", bucket),
            StoreError::NoSuchKey(key) => S3Error::new(Code::NoSuchKey).with("Key", key),
            StoreError::NoSuchUpload(id) => S3Error::new(Code::NoSuchUpload).with("UploadId", id),
            StoreError::KeyBlocked { key, .. } => S3Error::new(Code::ObjectPathConflict)
                .message(text)
                .with("Key", key),
            StoreError::ThroughSymlink(key) => S3Error::new(Code::ObjectPathConflict)
                .message(text)
                .with("Key", key),
            // Listings do not show these, so that a HEAD must not say otherwise.
            StoreError::NotAnObject { key, .. } => {
                S3Error::new(Code::NoSuchKey).message(text).with("Key", key)
            }
            StoreError::Reserved(_) | StoreError::OutsideBucket(_) => denied(&text),
            StoreError::ReadOnly(_) | StoreError::Denied(_) => denied(&text),
            StoreError::PreconditionFailed(condition) => {
                S3Error::new(Code::PreconditionFailed).with("Condition", condition)
            }
            StoreError::InvalidPart(number) => {
                S3Error::new(Code::InvalidPart).with("PartNumber", number.to_string())
            }
            StoreError::InvalidPartOrder => S3Error::new(Code::InvalidPartOrder),
            StoreError::PartTooSmall {
                number,
                size,
                minimum,
                etag,
            } => S3Error::new(Code::EntityTooSmall)
                .with("ProposedSize", size.to_string())
                .with("MinSizeAllowed", minimum.to_string())
                .with("PartNumber", number.to_string())
                .with("ETag", etag),
            StoreError::InvalidRequest(reason) => S3Error::invalid_request(reason),
            StoreError::BadDigest(_) => S3Error::new(Code::BadDigest).message(text),
            // Never SlowDown: clients retry that, and a full disk does not empty itself.
            StoreError::NoSpace(_) => S3Error::new(Code::InsufficientStorage).message(format!(
                "{} ({text})",
                Code::InsufficientStorage.default_message()
            )),
            StoreError::Exhausted(_) => S3Error::new(Code::SlowDown).message(text),
            StoreError::Unavailable(_) => S3Error::new(Code::ServiceUnavailable).message(text),
            StoreError::WouldBlock | StoreError::Io { .. } => S3Error::new(Code::InternalError)
                .message(format!(
                    "{} ({text})",
                    Code::InternalError.default_message()
                )),
        }
    }
}

fn denied(text: &str) -> S3Error {
    S3Error::new(Code::AccessDenied)
        .message(format!("{}: {text}", Code::AccessDenied.default_message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disks_answers_have_codes_that_clients_do_not_retry_in_vain() {
        let full = std::io::Error::from_raw_os_error(28);
        let error = S3Error::from(StoreError::from_io("a/b", full));
        assert_eq!(
            (error.code(), error.status().as_u16()),
            (Code::InsufficientStorage, 507)
        );
        assert!(error.text().contains("a/b"));
        let quota = S3Error::from(StoreError::from_io(
            "k",
            std::io::Error::from_raw_os_error(122),
        ));
        assert!(quota.text().contains("quota"), "{}", quota.text());
        for (errno, code) in [
            (122, Code::InsufficientStorage),
            (30, Code::AccessDenied),
            (13, Code::AccessDenied),
        ] {
            let error = S3Error::from(StoreError::from_io(
                "x",
                std::io::Error::from_raw_os_error(errno),
            ));
            assert_eq!(error.code(), code, "errno {errno}");
        }
        assert_eq!(
            S3Error::from(StoreError::Unavailable("/r".into())).status(),
            503
        );
    }
}
