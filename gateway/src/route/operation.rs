//! Every operation of the S3 API, and the one that a method, a level and a sub-resource choose.

mod names;
mod support;

use http::Method;
use http::request::Parts;

use super::Query;
use crate::error::{Code, S3Error, S3Result};

pub use support::{Support, Supported};

/// What a request asks for. Names are those of the S3 API.
#[expect(
    missing_docs,
    reason = "each variant is an operation of the S3 API under its own name"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    ListBuckets,
    /// `HEAD /`: asked by load balancers and S3 Browser; only says that the key is good.
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
    /// A browser's form: `POST /bucket` with multipart/form-data.
    PostObject,
    GetBucketConfig(Config),
    PutBucketConfig(Config),
    DeleteBucketConfig(Config),
    /// The configurations that are many per bucket, listed.
    ListBucketConfigs(Config),
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
    /// OPTIONS of CORS; not authenticated.
    Preflight,
    /// Recognised by its S3 name and not built.
    Unsupported(&'static str),
}

impl Operation {
    /// Gives the operation's name, for the log and for policies.
    pub fn name(self) -> &'static str {
        use Operation::*;
        match self {
            ListBuckets => "ListBuckets",
            HeadService => "HeadService",
            CreateBucket => "CreateBucket",
            HeadBucket => "HeadBucket",
            DeleteBucket => "DeleteBucket",
            ListObjects => "ListObjects",
            ListObjectsV2 => "ListObjectsV2",
            ListObjectVersions => "ListObjectVersions",
            ListMultipartUploads => "ListMultipartUploads",
            GetBucketLocation => "GetBucketLocation",
            DeleteObjects => "DeleteObjects",
            PostObject => "PostObject",
            GetBucketConfig(config) => config.row().get,
            PutBucketConfig(config) => config.row().put,
            DeleteBucketConfig(config) => config.row().delete,
            ListBucketConfigs(config) => config.row().list,
            GetObject => "GetObject",
            HeadObject => "HeadObject",
            PutObject => "PutObject",
            CopyObject => "CopyObject",
            DeleteObject => "DeleteObject",
            GetObjectAttributes => "GetObjectAttributes",
            GetObjectTagging => "GetObjectTagging",
            PutObjectTagging => "PutObjectTagging",
            DeleteObjectTagging => "DeleteObjectTagging",
            GetObjectAcl => "GetObjectAcl",
            PutObjectAcl => "PutObjectAcl",
            GetObjectRetention => "GetObjectRetention",
            PutObjectRetention => "PutObjectRetention",
            GetObjectLegalHold => "GetObjectLegalHold",
            PutObjectLegalHold => "PutObjectLegalHold",
            CreateMultipartUpload => "CreateMultipartUpload",
            UploadPart => "UploadPart",
            UploadPartCopy => "UploadPartCopy",
            CompleteMultipartUpload => "CompleteMultipartUpload",
            AbortMultipartUpload => "AbortMultipartUpload",
            ListParts => "ListParts",
            Preflight => "Preflight",
            Unsupported(name) => name,
        }
    }
}

/// A configuration of a bucket that has a sub-resource of its own.
#[expect(
    missing_docs,
    reason = "each variant is a sub-resource; its row in the table says which"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Config {
    Policy,
    PolicyStatus,
    Tagging,
    Versioning,
    Cors,
    Lifecycle,
    Notification,
    Acl,
    OwnershipControls,
    PublicAccessBlock,
    ObjectLock,
    Encryption,
    Website,
    Replication,
    Logging,
    RequestPayment,
    Accelerate,
    Analytics,
    Inventory,
    Metrics,
    IntelligentTiering,
    MetadataConfiguration,
    MetadataTable,
    MetadataAnnotationTable,
    MetadataInventoryTable,
    MetadataJournalTable,
    Abac,
}

/// The operations of one configuration; an empty name: S3 has no such operation.
struct Row {
    subresource: &'static str,
    get: &'static str,
    put: &'static str,
    delete: &'static str,
    /// Not empty where there are many per bucket, told apart by `id`.
    list: &'static str,
    /// POST, of the metadata tables only.
    post: &'static str,
    /// Built here, at least by its answers when unset.
    built: bool,
}

impl Config {
    const ALL: [Config; 27] = [
        Config::Policy,
        Config::PolicyStatus,
        Config::Tagging,
        Config::Versioning,
        Config::Cors,
        Config::Lifecycle,
        Config::Notification,
        Config::Acl,
        Config::OwnershipControls,
        Config::PublicAccessBlock,
        Config::ObjectLock,
        Config::Encryption,
        Config::Website,
        Config::Replication,
        Config::Logging,
        Config::RequestPayment,
        Config::Accelerate,
        Config::Analytics,
        Config::Inventory,
        Config::Metrics,
        Config::IntelligentTiering,
        Config::MetadataConfiguration,
        Config::MetadataTable,
        Config::MetadataAnnotationTable,
        Config::MetadataInventoryTable,
        Config::MetadataJournalTable,
        Config::Abac,
    ];

    const fn row(self) -> Row {
        const fn single(
            subresource: &'static str,
            get: &'static str,
            put: &'static str,
            delete: &'static str,
        ) -> Row {
            Row {
                subresource,
                get,
                put,
                delete,
                list: "",
                post: "",
                built: true,
            }
        }
        const fn many(subresource: &'static str, names: [&'static str; 4]) -> Row {
            Row {
                subresource,
                get: names[0],
                put: names[1],
                delete: names[2],
                list: names[3],
                post: "",
                built: true,
            }
        }
        const fn absent(subresource: &'static str, names: [&'static str; 4]) -> Row {
            Row {
                subresource,
                get: names[0],
                put: names[1],
                delete: names[2],
                list: "",
                post: names[3],
                built: false,
            }
        }
        match self {
            Config::Policy => single(
                "policy",
                "GetBucketPolicy",
                "PutBucketPolicy",
                "DeleteBucketPolicy",
            ),
            Config::PolicyStatus => single("policyStatus", "GetBucketPolicyStatus", "", ""),
            Config::Tagging => single(
                "tagging",
                "GetBucketTagging",
                "PutBucketTagging",
                "DeleteBucketTagging",
            ),
            Config::Versioning => single(
                "versioning",
                "GetBucketVersioning",
                "PutBucketVersioning",
                "",
            ),
            Config::Cors => single("cors", "GetBucketCors", "PutBucketCors", "DeleteBucketCors"),
            Config::Lifecycle => single(
                "lifecycle",
                "GetBucketLifecycleConfiguration",
                "PutBucketLifecycleConfiguration",
                "DeleteBucketLifecycle",
            ),
            Config::Notification => single(
                "notification",
                "GetBucketNotificationConfiguration",
                "PutBucketNotificationConfiguration",
                "",
            ),
            Config::Acl => single("acl", "GetBucketAcl", "PutBucketAcl", ""),
            Config::OwnershipControls => single(
                "ownershipControls",
                "GetBucketOwnershipControls",
                "PutBucketOwnershipControls",
                "DeleteBucketOwnershipControls",
            ),
            Config::PublicAccessBlock => single(
                "publicAccessBlock",
                "GetPublicAccessBlock",
                "PutPublicAccessBlock",
                "DeletePublicAccessBlock",
            ),
            Config::ObjectLock => single(
                "object-lock",
                "GetObjectLockConfiguration",
                "PutObjectLockConfiguration",
                "",
            ),
            Config::Encryption => single(
                "encryption",
                "GetBucketEncryption",
                "PutBucketEncryption",
                "DeleteBucketEncryption",
            ),
            Config::Website => single(
                "website",
                "GetBucketWebsite",
                "PutBucketWebsite",
                "DeleteBucketWebsite",
            ),
            Config::Replication => single(
                "replication",
                "GetBucketReplication",
                "PutBucketReplication",
                "DeleteBucketReplication",
            ),
            Config::Logging => single("logging", "GetBucketLogging", "PutBucketLogging", ""),
            Config::RequestPayment => single(
                "requestPayment",
                "GetBucketRequestPayment",
                "PutBucketRequestPayment",
                "",
            ),
            Config::Accelerate => single(
                "accelerate",
                "GetBucketAccelerateConfiguration",
                "PutBucketAccelerateConfiguration",
                "",
            ),
            Config::Analytics => many(
                "analytics",
                [
                    "GetBucketAnalyticsConfiguration",
                    "PutBucketAnalyticsConfiguration",
                    "DeleteBucketAnalyticsConfiguration",
                    "ListBucketAnalyticsConfigurations",
                ],
            ),
            Config::Inventory => many(
                "inventory",
                [
                    "GetBucketInventoryConfiguration",
                    "PutBucketInventoryConfiguration",
                    "DeleteBucketInventoryConfiguration",
                    "ListBucketInventoryConfigurations",
                ],
            ),
            Config::Metrics => many(
                "metrics",
                [
                    "GetBucketMetricsConfiguration",
                    "PutBucketMetricsConfiguration",
                    "DeleteBucketMetricsConfiguration",
                    "ListBucketMetricsConfigurations",
                ],
            ),
            Config::IntelligentTiering => many(
                "intelligent-tiering",
                [
                    "GetBucketIntelligentTieringConfiguration",
                    "PutBucketIntelligentTieringConfiguration",
                    "DeleteBucketIntelligentTieringConfiguration",
                    "ListBucketIntelligentTieringConfigurations",
                ],
            ),
            Config::MetadataConfiguration => absent(
                "metadataConfiguration",
                [
                    "GetBucketMetadataConfiguration",
                    "",
                    "DeleteBucketMetadataConfiguration",
                    "CreateBucketMetadataConfiguration",
                ],
            ),
            Config::MetadataTable => absent(
                "metadataTable",
                [
                    "GetBucketMetadataTableConfiguration",
                    "",
                    "DeleteBucketMetadataTableConfiguration",
                    "CreateBucketMetadataTableConfiguration",
                ],
            ),
            Config::MetadataAnnotationTable => absent(
                "metadataAnnotationTable",
                [
                    "",
                    "UpdateBucketMetadataAnnotationTableConfiguration",
                    "",
                    "",
                ],
            ),
            Config::MetadataInventoryTable => absent(
                "metadataInventoryTable",
                [
                    "",
                    "UpdateBucketMetadataInventoryTableConfiguration",
                    "",
                    "",
                ],
            ),
            Config::MetadataJournalTable => absent(
                "metadataJournalTable",
                ["", "UpdateBucketMetadataJournalTableConfiguration", "", ""],
            ),
            Config::Abac => absent("abac", ["GetBucketAbac", "PutBucketAbac", "", ""]),
        }
    }

    /// Gives the sub-resource's name in the query.
    pub const fn subresource(self) -> &'static str {
        self.row().subresource
    }

    fn named(subresource: &str) -> Option<Config> {
        Config::ALL
            .into_iter()
            .find(|config| config.subresource() == subresource)
    }
}

/// Sub-resources that are no bucket configuration.
const OTHER_SUBRESOURCES: [&str; 14] = [
    "location",
    "versions",
    "uploads",
    "delete",
    "session",
    "uploadId",
    "attributes",
    "retention",
    "legal-hold",
    "restore",
    "select",
    "torrent",
    "renameObject",
    "annotation",
];

/// Chooses the operation; `bucket` and `key` say at which level the target is.
pub(super) fn choose(parts: &Parts, query: &Query, bucket: bool, key: bool) -> S3Result<Operation> {
    let subresource = subresource(query)?;
    let operation = match (bucket, key) {
        (false, _) => service(&parts.method),
        (true, false) => bucket_operation(parts, query, subresource)?,
        (true, true) => object_operation(parts, query, subresource)?,
    };
    operation.ok_or_else(|| not_allowed(&parts.method, subresource, bucket, key))
}

/// Gives the one recognised sub-resource of a query.
fn subresource(query: &Query) -> S3Result<Option<&str>> {
    let mut found = None;
    for (name, _) in query.pairs() {
        if Config::named(name).is_none() && !OTHER_SUBRESOURCES.contains(&name) {
            continue;
        }
        match found {
            Some(other) if other != name => {
                return Err(S3Error::invalid_argument(
                    "ResourceType",
                    other,
                    format!("Conflicting query string parameters: {other}, {name}"),
                ));
            }
            _ => found = Some(name),
        }
    }
    Ok(found)
}

fn not_allowed(method: &Method, subresource: Option<&str>, bucket: bool, key: bool) -> S3Error {
    let level = match (bucket, key) {
        (false, _) => "SERVICE",
        (true, false) => "BUCKET",
        (true, true) => "OBJECT",
    };
    S3Error::new(Code::MethodNotAllowed)
        .with("Method", method.as_str())
        .with("ResourceType", subresource.unwrap_or(level))
}

fn service(method: &Method) -> Option<Operation> {
    match *method {
        Method::GET => Some(Operation::ListBuckets),
        Method::HEAD => Some(Operation::HeadService),
        _ => None,
    }
}

fn bucket_operation(
    parts: &Parts,
    query: &Query,
    subresource: Option<&str>,
) -> S3Result<Option<Operation>> {
    use Operation::*;
    if let Some(config) = subresource.and_then(Config::named) {
        return Ok(config_operation(&parts.method, query, config));
    }
    Ok(match (parts.method.as_str(), subresource) {
        ("GET", None) => Some(list_objects(query)?),
        ("GET", Some("location")) => Some(GetBucketLocation),
        ("GET", Some("versions")) => Some(ListObjectVersions),
        ("GET", Some("uploads")) => Some(ListMultipartUploads),
        ("GET", Some("session")) => Some(Unsupported("CreateSession")),
        ("PUT", None) => Some(CreateBucket),
        ("HEAD", None) => Some(HeadBucket),
        ("DELETE", None) => Some(DeleteBucket),
        ("POST", Some("delete")) => Some(DeleteObjects),
        ("POST", None) if parts.uri.path() == "/WriteGetObjectResponse" => {
            Some(Unsupported("WriteGetObjectResponse"))
        }
        ("POST", None) => Some(PostObject),
        _ => None,
    })
}

fn list_objects(query: &Query) -> S3Result<Operation> {
    match query.get("list-type") {
        None | Some("" | "1") => Ok(Operation::ListObjects),
        Some("2") => Ok(Operation::ListObjectsV2),
        Some(other) => Err(S3Error::invalid_argument(
            "list-type",
            other,
            "Invalid List Type value specified in Argument",
        )),
    }
}

fn config_operation(method: &Method, query: &Query, config: Config) -> Option<Operation> {
    let row = config.row();
    let listed = !row.list.is_empty() && !query.has("id");
    let (name, operation) = match *method {
        Method::GET if listed => (row.list, Operation::ListBucketConfigs(config)),
        Method::GET => (row.get, Operation::GetBucketConfig(config)),
        Method::PUT => (row.put, Operation::PutBucketConfig(config)),
        Method::DELETE => (row.delete, Operation::DeleteBucketConfig(config)),
        Method::POST => (row.post, Operation::Unsupported(row.post)),
        _ => return None,
    };
    if name.is_empty() {
        None
    } else if row.built {
        Some(operation)
    } else {
        Some(Operation::Unsupported(name))
    }
}

fn object_operation(
    parts: &Parts,
    query: &Query,
    subresource: Option<&str>,
) -> S3Result<Option<Operation>> {
    use Operation::*;
    let copies = parts.headers.contains_key("x-amz-copy-source");
    if parts.method == Method::PUT && query.has("partNumber") != (subresource == Some("uploadId")) {
        // Never a plain PUT: half of the two would overwrite the object with a part.
        let missing = if query.has("partNumber") {
            "uploadId"
        } else {
            "partNumber"
        };
        if subresource.is_none_or(|name| name == "uploadId") {
            return Err(S3Error::invalid_argument(
                missing,
                "",
                "partNumber and uploadId must come together",
            ));
        }
    }
    Ok(match (parts.method.as_str(), subresource) {
        ("GET", None) => Some(GetObject),
        ("GET", Some("uploadId")) => Some(ListParts),
        ("GET", Some("attributes")) => Some(GetObjectAttributes),
        ("GET", Some("tagging")) => Some(GetObjectTagging),
        ("GET", Some("acl")) => Some(GetObjectAcl),
        ("GET", Some("retention")) => Some(GetObjectRetention),
        ("GET", Some("legal-hold")) => Some(GetObjectLegalHold),
        ("GET", Some("torrent")) => Some(Unsupported("GetObjectTorrent")),
        ("GET", Some("annotation")) if query.has("annotationName") => {
            Some(Unsupported("GetObjectAnnotation"))
        }
        ("GET", Some("annotation")) => Some(Unsupported("ListObjectAnnotations")),
        ("HEAD", None) => Some(HeadObject),
        ("PUT", None) if copies => Some(CopyObject),
        ("PUT", None) => Some(PutObject),
        ("PUT", Some("uploadId")) if copies => Some(UploadPartCopy),
        ("PUT", Some("uploadId")) => Some(UploadPart),
        ("PUT", Some("tagging")) => Some(PutObjectTagging),
        ("PUT", Some("acl")) => Some(PutObjectAcl),
        ("PUT", Some("retention")) => Some(PutObjectRetention),
        ("PUT", Some("legal-hold")) => Some(PutObjectLegalHold),
        ("PUT", Some("renameObject")) => Some(Unsupported("RenameObject")),
        ("PUT", Some("annotation")) => Some(Unsupported("PutObjectAnnotation")),
        ("PUT", Some("encryption")) => Some(Unsupported("UpdateObjectEncryption")),
        ("POST", Some("uploads")) => Some(CreateMultipartUpload),
        ("POST", Some("uploadId")) => Some(CompleteMultipartUpload),
        ("POST", Some("restore")) => Some(Unsupported("RestoreObject")),
        ("POST", Some("select")) => Some(Unsupported("SelectObjectContent")),
        ("DELETE", None) => Some(DeleteObject),
        ("DELETE", Some("uploadId")) => Some(AbortMultipartUpload),
        ("DELETE", Some("tagging")) => Some(DeleteObjectTagging),
        ("DELETE", Some("annotation")) => Some(Unsupported("DeleteObjectAnnotation")),
        _ => None,
    })
}
