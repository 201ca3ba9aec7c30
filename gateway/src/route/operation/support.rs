//! How far each operation is built, for the page that says it (`docs/compatibility.md`).

use super::names::{PLAIN, UNSUPPORTED};
use super::{Config, Operation};

/// How an operation is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// As S3 does.
    Whole,
    /// Nothing is set, and that is what it says or leaves.
    AsUnset,
    /// What would change nothing is taken, all else is refused.
    AsItIs,
    /// Refused, with a code that S3 has for a bucket without the feature.
    Lacking,
    /// 501 NotImplemented.
    Refused,
}

impl Support {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::AsUnset => "as-unset",
            Self::AsItIs => "as-it-is",
            Self::Lacking => "lacking",
            Self::Refused => "refused",
        }
    }
}

/// One operation of the S3 API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supported {
    /// Its name.
    pub name: &'static str,
    /// The sub-resource of a bucket that it is about; empty: none.
    pub subresource: &'static str,
    /// How it is answered.
    pub support: Support,
}

impl Operation {
    /// Gives every operation, by name.
    pub fn all() -> Vec<Supported> {
        let plain = PLAIN.iter().map(|operation| (*operation, ""));
        let unsupported = UNSUPPORTED.map(|name| (Operation::Unsupported(name), ""));
        let configs = Config::ALL.into_iter().flat_map(|config| {
            let row = config.row();
            let of = [
                Operation::GetBucketConfig(config),
                Operation::PutBucketConfig(config),
                Operation::DeleteBucketConfig(config),
                Operation::ListBucketConfigs(config),
                Operation::Unsupported(row.post),
            ];
            of.map(|operation| (operation, row.subresource))
        });
        let every = plain.chain(unsupported).chain(configs);
        let mut all: Vec<Supported> = every
            .filter(|(operation, _)| !operation.name().is_empty())
            .map(|(operation, subresource)| Supported {
                name: operation.name(),
                subresource,
                support: operation.support(),
            })
            .collect();
        all.sort_unstable_by_key(|one| one.name);
        all
    }

    fn support(self) -> Support {
        use Operation::*;
        match self {
            ListBuckets
            | HeadService
            | CreateBucket
            | HeadBucket
            | DeleteBucket
            | ListObjects
            | ListObjectsV2
            | ListMultipartUploads
            | GetBucketLocation
            | DeleteObjects
            | GetObject
            | HeadObject
            | PutObject
            | CopyObject
            | DeleteObject
            | GetObjectAttributes
            | GetObjectTagging
            | PutObjectTagging
            | DeleteObjectTagging
            | GetObjectAcl
            | CreateMultipartUpload
            | UploadPart
            | UploadPartCopy
            | CompleteMultipartUpload
            | AbortMultipartUpload
            | ListParts => Support::Whole,
            // Each object has one version, `null`.
            ListObjectVersions => Support::AsUnset,
            // Those that grant the owner alone.
            PutObjectAcl => Support::AsItIs,
            GetObjectRetention | PutObjectRetention | GetObjectLegalHold | PutObjectLegalHold
            | Preflight => Support::Lacking,
            GetBucketConfig(config) => match config {
                Config::Tagging | Config::Acl => Support::Whole,
                _ if config.row().built => Support::AsUnset,
                _ => Support::Refused,
            },
            PutBucketConfig(config) => match config {
                Config::Tagging => Support::Whole,
                Config::Acl | Config::Notification | Config::Logging | Config::RequestPayment => {
                    Support::AsItIs
                }
                _ => Support::Refused,
            },
            DeleteBucketConfig(config) => match config {
                Config::Tagging => Support::Whole,
                _ if config.row().built => Support::AsUnset,
                _ => Support::Refused,
            },
            ListBucketConfigs(_) => Support::AsUnset,
            PostObject | Unsupported(_) => Support::Refused,
        }
    }
}
