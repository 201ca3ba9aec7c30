//! Bucket configurations that nobody can set yet: what GET answers for an unset one, DELETE's 204, PUT's 501.
//!
//! Terraform and others read all of them at every run, so each GET answers the code that they key on. Tags are kept
//! (`bucket_tagging.rs`), access lists are fixed (`acl.rs`).

use http::StatusCode;
use twintree_store::Bucket;

use super::{acl, answer, bucket_tagging};
use crate::call::{Call, Reply};
use crate::error::{Code, S3Error, S3Result};
use crate::route::{Config, Operation};
use crate::xml::{self, Writer};

/// Answers a configuration.
///
/// # Errors
/// The code of the unset configuration.
pub(crate) async fn get(call: &Call, bucket: &Bucket, config: Config) -> S3Result<Reply> {
    let unset = match config {
        Config::Tagging => return bucket_tagging::get_bucket_tagging(bucket).await,
        Config::Acl => return acl::get_bucket_acl(call, bucket).await,
        Config::Versioning => {
            return Ok(answer::document(Writer::s3("VersioningConfiguration", 0)));
        }
        Config::Notification => {
            return Ok(answer::document(Writer::s3("NotificationConfiguration", 0)));
        }
        Config::Logging => return Ok(answer::document(Writer::s3("BucketLoggingStatus", 0))),
        Config::Accelerate => {
            return Ok(answer::document(Writer::s3("AccelerateConfiguration", 0)));
        }
        Config::RequestPayment => {
            let mut xml = Writer::s3("RequestPaymentConfiguration", 0);
            xml.plain("Payer", "BucketOwner");
            return Ok(answer::document(xml));
        }
        Config::Policy | Config::PolicyStatus => Code::NoSuchBucketPolicy,
        Config::Cors => Code::NoSuchCORSConfiguration,
        Config::Lifecycle => Code::NoSuchLifecycleConfiguration,
        Config::OwnershipControls => Code::OwnershipControlsNotFoundError,
        Config::PublicAccessBlock => Code::NoSuchPublicAccessBlockConfiguration,
        Config::ObjectLock => Code::ObjectLockConfigurationNotFoundError,
        Config::Encryption => Code::ServerSideEncryptionConfigurationNotFoundError,
        Config::Website => Code::NoSuchWebsiteConfiguration,
        Config::Replication => Code::ReplicationConfigurationNotFoundError,
        Config::Analytics | Config::Inventory | Config::Metrics | Config::IntelligentTiering => {
            Code::NoSuchConfiguration
        }
        Config::MetadataConfiguration
        | Config::MetadataTable
        | Config::MetadataAnnotationTable
        | Config::MetadataInventoryTable
        | Config::MetadataJournalTable
        | Config::Abac => return Err(S3Error::not_implemented(config.subresource())),
    };
    Err(S3Error::new(unset).with("BucketName", bucket.name().as_str()))
}

/// Answers the empty list of a kind of configuration that is many per bucket.
///
/// # Errors
/// `NotImplemented` for a configuration that is one per bucket; routing never asks.
pub(crate) fn list(config: Config) -> S3Result<Reply> {
    let root = match config {
        Config::Analytics => "ListBucketAnalyticsConfigurationResult",
        Config::Inventory => "ListInventoryConfigurationsResult",
        Config::Metrics => "ListMetricsConfigurationsResult",
        Config::IntelligentTiering => "ListBucketIntelligentTieringConfigurationsOutput",
        other => return Err(S3Error::not_implemented(other.subresource())),
    };
    let mut xml = Writer::s3(root, 0);
    xml.flag("IsTruncated", false);
    Ok(answer::document(xml))
}

/// Takes a configuration: tags, the owner's access list, and whatever asks for how it is anyway.
///
/// # Errors
/// `NotImplemented` for everything that would have an effect; `MalformedXML`.
pub(crate) async fn put(
    call: &Call,
    bucket: &Bucket,
    config: Config,
    document: &[u8],
) -> S3Result<Reply> {
    let as_it_is = match config {
        Config::Tagging => return bucket_tagging::put_bucket_tagging(bucket, document).await,
        Config::Acl => return acl::put_bucket_acl(call, document),
        Config::Notification => !xml::notifications_wanted(document)?,
        Config::Logging => !xml::logging_enabled(document)?,
        Config::RequestPayment => xml::request_payer(document)? == "BucketOwner",
        Config::Versioning => {
            // Not even Suspended: a bucket that was never versioned has no status to go to.
            xml::versioning_status(document)?;
            false
        }
        _ => false,
    };
    if as_it_is {
        return Ok(answer::empty(StatusCode::OK));
    }
    Err(S3Error::not_implemented(
        Operation::PutBucketConfig(config).name(),
    ))
}

/// Deletes a configuration; one that is unset is deleted already.
///
/// # Errors
/// What the disk says of the tags.
pub(crate) async fn delete(bucket: &Bucket, config: Config) -> S3Result<Reply> {
    if config == Config::Tagging {
        return bucket_tagging::delete_bucket_tagging(bucket).await;
    }
    Ok(answer::empty(StatusCode::NO_CONTENT))
}
