//! `x-amz-copy-source`: where CopyObject and UploadPartCopy read from.

use http::{HeaderMap, Method};
use twintree_store::{Access, BucketName, Object, ObjectKey, Timestamp};

use super::owner;
use super::version::Version;
use crate::call::{Call, blocking};
use crate::conditional::ReadConditions;
use crate::error::{S3Error, S3Result};
use crate::route;

const HEADER: &str = "x-amz-copy-source";

/// A source, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CopySource {
    /// Its bucket.
    pub bucket: BucketName,
    /// Its key.
    pub key: ObjectKey,
    /// The version, where one is named.
    pub version: Version,
}

impl CopySource {
    /// Reads the header: one leading `/` is dropped, `?versionId=` is split off before decoding, `+` is a plus.
    ///
    /// # Errors
    /// `InvalidArgument`, `NoSuchVersion`, and those of names.
    pub(crate) fn of(headers: &HeaderMap) -> S3Result<CopySource> {
        let value = headers
            .get(HEADER)
            .map_or(&b""[..], |value| value.as_bytes());
        // Clients must encode, and some send raw UTF-8.
        let text =
            std::str::from_utf8(value).map_err(|_| invalid("", "Invalid copy source encoding."))?;
        Self::parse(text)
    }

    /// Reads the text of the header, as [`CopySource::of`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn parse(text: &str) -> S3Result<CopySource> {
        let (path, version) = match text.split_once("?versionId=") {
            Some((path, id)) => (path, Version::named(id)?),
            None => (text, Version::Current),
        };
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = route::percent_decode(path)
            .ok_or_else(|| invalid(text, "Invalid copy source encoding."))?;
        let (bucket, key) = path
            .split_once('/')
            .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
            .ok_or_else(|| {
                invalid(
                    text,
                    "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
                )
            })?;
        Ok(CopySource {
            bucket: route::bucket_name(bucket)?,
            key: route::object_key(key, &Method::GET)?,
            version,
        })
    }

    /// Opens the source and tests `x-amz-copy-source-if-*` on it.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchKey`, `AccessDenied` for another owner than expected, `PreconditionFailed`, and what the
    /// disk says.
    pub(crate) async fn open(&self, call: &Call) -> S3Result<Object> {
        let bucket = call.bucket(&self.bucket).await?;
        owner::check(call, &self.bucket, &owner::EXPECTED_OF_SOURCE).await?;
        let conditions = ReadConditions::of_copy_source(&call.parts.headers);
        let (key, asked) = (self.key.clone(), conditions.clone());
        let object = blocking(move || {
            let object = bucket.open(&key, Access::Blocking)?;
            // A condition that names what the record of an unverified file says is decided by reading the file.
            if asked
                .tag_lists()
                .any(|list| object.info.is_recorded_as(list))
            {
                return Ok(bucket.settle(&key, object)?);
            }
            Ok(object)
        })
        .await?;
        conditions.check_copy_source(&object.info, Timestamp::now().seconds())?;
        Ok(object)
    }
}

fn invalid(value: &str, message: &'static str) -> S3Error {
    S3Error::invalid_argument(HEADER, value, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn sources_are_decoded_once_and_plus_is_a_plus() {
        for (text, bucket, key, version) in [
            ("b/k", "b", "k", Version::Current),
            ("/b/k", "b", "k", Version::Current),
            ("b//k", "b", "/k", Version::Current),
            ("b/a%2Fb%20c+d", "b", "a/b c+d", Version::Current),
            ("b/k?versionId=null", "b", "k", Version::Null),
            ("b/%3FversionId", "b", "?versionId", Version::Current),
            ("b/k%3FversionId=x", "b", "k?versionId=x", Version::Current),
            ("b%2Fk", "b", "k", Version::Current),
        ] {
            let source = CopySource::parse(text).expect(text);
            assert_eq!(
                (source.bucket.as_str(), source.key.as_str(), source.version),
                (bucket, key, version)
            );
        }
    }

    #[test]
    fn what_is_no_source_is_refused() {
        for (text, code) in [
            ("", Code::InvalidArgument),
            ("b", Code::InvalidArgument),
            ("b/", Code::InvalidArgument),
            ("/", Code::InvalidArgument),
            ("b/%zz", Code::InvalidArgument),
            ("b/%ff", Code::InvalidArgument),
            ("b/k?versionId=other", Code::NoSuchVersion),
            ("b/.twintree/x", Code::NoSuchKey),
        ] {
            assert_eq!(
                CopySource::parse(text).expect_err(text).code(),
                code,
                "{text}"
            );
        }
    }
}
