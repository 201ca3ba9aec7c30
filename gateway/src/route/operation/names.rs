//! The names of all operations, for whoever keeps something about each.

use super::{Config, Operation};

/// Those that have no variant of their own.
const UNSUPPORTED: [&str; 11] = [
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
        use Operation::*;
        let plain = [
            ListBuckets,
            HeadService,
            CreateBucket,
            HeadBucket,
            DeleteBucket,
            ListObjects,
            ListObjectsV2,
            ListObjectVersions,
            ListMultipartUploads,
            GetBucketLocation,
            DeleteObjects,
            PostObject,
            GetObject,
            HeadObject,
            PutObject,
            CopyObject,
            DeleteObject,
            GetObjectAttributes,
            GetObjectTagging,
            PutObjectTagging,
            DeleteObjectTagging,
            GetObjectAcl,
            PutObjectAcl,
            GetObjectRetention,
            PutObjectRetention,
            GetObjectLegalHold,
            PutObjectLegalHold,
            CreateMultipartUpload,
            UploadPart,
            UploadPartCopy,
            CompleteMultipartUpload,
            AbortMultipartUpload,
            ListParts,
            Preflight,
        ];
        let mut names: Vec<&str> = plain.iter().map(|operation| operation.name()).collect();
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
