//! The names of all operations, for whoever keeps something about each.

use super::{Config, Operation};

/// Those that have a variant of their own.
pub(super) const PLAIN: [Operation; 34] = [
    Operation::ListBuckets,
    Operation::HeadService,
    Operation::CreateBucket,
    Operation::HeadBucket,
    Operation::DeleteBucket,
    Operation::ListObjects,
    Operation::ListObjectsV2,
    Operation::ListObjectVersions,
    Operation::ListMultipartUploads,
    Operation::GetBucketLocation,
    Operation::DeleteObjects,
    Operation::PostObject,
    Operation::GetObject,
    Operation::HeadObject,
    Operation::PutObject,
    Operation::CopyObject,
    Operation::DeleteObject,
    Operation::GetObjectAttributes,
    Operation::GetObjectTagging,
    Operation::PutObjectTagging,
    Operation::DeleteObjectTagging,
    Operation::GetObjectAcl,
    Operation::PutObjectAcl,
    Operation::GetObjectRetention,
    Operation::PutObjectRetention,
    Operation::GetObjectLegalHold,
    Operation::PutObjectLegalHold,
    Operation::CreateMultipartUpload,
    Operation::UploadPart,
    Operation::UploadPartCopy,
    Operation::CompleteMultipartUpload,
    Operation::AbortMultipartUpload,
    Operation::ListParts,
    Operation::Preflight,
];
/// Those that have no variant of their own.
pub(super) const UNSUPPORTED: [&str; 11] = [
    "CreateSession",
    "WriteGetObjectResponse",
    "GetObjectTorrent",
    "GetObjectAnnotation",
    "ListObjectAnnotations",
    "RenameObject",
    "PutObjectAnnotation",
    "UpdateObjectEncryption",
    "RestoreObject",
    "SelectObjectContent",
    "DeleteObjectAnnotation",
];

impl Operation {
    /// Gives each name that [`Operation::name`] can give.
    pub(crate) fn names() -> Vec<&'static str> {
        let mut names: Vec<&str> = PLAIN.iter().map(|operation| operation.name()).collect();
        names.extend(UNSUPPORTED);
        for config in Config::ALL {
            let row = config.row();
            names.extend([row.get, row.put, row.delete, row.list, row.post]);
        }
        names.retain(|name| !name.is_empty());
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_is_written_beside_an_operation_is_among_them() {
        let names = Operation::names();
        let source = include_str!("../operation.rs");
        let after = |mark: &'static str| {
            source.split(mark).skip(1).filter_map(|rest| {
                let rest = rest.trim_start().strip_prefix('"')?;
                rest.split('"').next()
            })
        };
        let written = after("Unsupported(").chain(after("=> "));
        let written: Vec<&str> = written
            .filter(|name| name.contains(|c: char| c.is_ascii_lowercase()))
            .collect();
        assert!(written.len() >= 45, "{written:?}");
        for name in written {
            assert!(names.contains(&name), "{name}");
        }
    }
}
