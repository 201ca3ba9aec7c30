//! `versionId` of requests while no bucket keeps versions: every object is the version `null` of its key.

use http::{HeaderName, HeaderValue};

use crate::call::Reply;
use crate::error::{Code, S3Error, S3Result};
use crate::route::Query;

const VERSION_ID: HeaderName = HeaderName::from_static("x-amz-version-id");

/// Which version a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// None: the current one.
    Current,
    /// `null`, by name: the reply names it too.
    Null,
}

impl Version {
    /// Reads `versionId`.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no version id of any bucket, `NoSuchVersion` for any but `null`.
    pub(crate) fn of(query: &Query) -> S3Result<Self> {
        match query.get("versionId") {
            None => Ok(Version::Current),
            Some(id) => Self::named(id),
        }
    }

    /// Reads a version id.
    ///
    /// # Errors
    /// As [`Version::of`].
    pub(crate) fn named(id: &str) -> S3Result<Self> {
        match id {
            "null" => Ok(Version::Null),
            "" => Err(S3Error::invalid_argument(
                "versionId",
                "",
                "Version id cannot be the empty string",
            )),
            other if may_be_an_id(other) => {
                Err(S3Error::new(Code::NoSuchVersion).with("VersionId", other))
            }
            other => Err(S3Error::invalid_argument(
                "versionId",
                other,
                "Invalid version id specified",
            )),
        }
    }

    /// Adds `x-amz-version-id` where the request named a version.
    pub(crate) fn name_in(self, reply: &mut Reply) {
        if self == Version::Null {
            reply
                .headers_mut()
                .insert(VERSION_ID, HeaderValue::from_static("null"));
        }
    }
}

fn may_be_an_id(id: &str) -> bool {
    id.len() <= 1024
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_null_names_a_version() {
        let of = |raw| Version::of(&Query::parse(raw).expect("valid"));
        assert_eq!(of(""), Ok(Version::Current));
        assert_eq!(of("versionId=null"), Ok(Version::Null));
        assert_eq!(
            of("versionId").expect_err("empty").code(),
            Code::InvalidArgument
        );
        assert_eq!(
            of("versionId=abc").expect_err("unknown").code(),
            Code::NoSuchVersion
        );
        assert_eq!(
            of("versionId=a%20b").expect_err("no id").code(),
            Code::InvalidArgument
        );
    }
}
