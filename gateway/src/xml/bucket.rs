//! The documents that say something of a bucket, or of who may use it.

use super::read::{malformed, read};
use super::tags::{TagLimits, tag_set};
use crate::error::{Code, S3Error, S3Result};

/// What CreateBucket asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateBucketRequest {
    /// The location constraint, if any.
    pub location: Option<String>,
    /// Tags of the new bucket.
    pub tags: Vec<(String, String)>,
}

/// Reads the body of CreateBucket; an empty one asks for nothing.
///
/// # Errors
/// `MalformedXML`, `InvalidTag`, `InvalidLocationConstraint` for text that is no region's name.
pub fn create_bucket_request(document: &[u8]) -> S3Result<CreateBucketRequest> {
    if document.is_empty() {
        return Ok(CreateBucketRequest::default());
    }
    let root = read(document, &["CreateBucketConfiguration"])?;
    let location = root
        .child_word("LocationConstraint")
        .filter(|text| !text.is_empty());
    if let Some(text) = location {
        let plain = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
        if !plain || text.len() > 255 {
            return Err(
                S3Error::new(Code::InvalidLocationConstraint).with("LocationConstraint", text)
            );
        }
    }
    let tags = match root.child("Tags") {
        Some(set) => tag_set(set, TagLimits::BUCKET)?,
        None => Vec::new(),
    };
    Ok(CreateBucketRequest {
        location: location.map(str::to_owned),
        tags,
    })
}

/// Says whether an AccessControlPolicy grants FULL_CONTROL to its owner and nothing else: the only access list that
/// this server keeps.
///
/// # Errors
/// `MalformedACLError`.
pub fn is_private_acl(document: &[u8]) -> S3Result<bool> {
    let malformed_acl = || S3Error::new(Code::MalformedACLError);
    let root = read(document, &["AccessControlPolicy"]).map_err(|_| malformed_acl())?;
    let owner = root.child("Owner").and_then(|owner| owner.child_word("ID"));
    let list = root.child("AccessControlList").ok_or_else(malformed_acl)?;
    for grant in list.all("Grant") {
        let grantee = grant.child("Grantee").ok_or_else(malformed_acl)?;
        let permission = grant.child_word("Permission").ok_or_else(malformed_acl)?;
        if !matches!(
            permission,
            "FULL_CONTROL" | "READ" | "WRITE" | "READ_ACP" | "WRITE_ACP"
        ) {
            return Err(malformed_acl());
        }
        let to_owner = grantee
            .child_word("ID")
            .is_some_and(|id| owner.is_none_or(|owner| owner == id));
        if !to_owner || permission != "FULL_CONTROL" {
            return Ok(false);
        }
    }
    Ok(list.all("Grant").count() > 0)
}

/// Gives the `Payer` of a RequestPaymentConfiguration.
///
/// # Errors
/// `MalformedXML`.
pub fn request_payer(document: &[u8]) -> S3Result<String> {
    let root = read(document, &["RequestPaymentConfiguration"])?;
    match root.child_word("Payer") {
        Some(payer @ ("BucketOwner" | "Requester")) => Ok(payer.to_owned()),
        _ => Err(malformed("Payer")),
    }
}

/// Says whether a BucketLoggingStatus turns logging on.
///
/// # Errors
/// `MalformedXML`.
pub fn logging_enabled(document: &[u8]) -> S3Result<bool> {
    Ok(read(document, &["BucketLoggingStatus"])?
        .child("LoggingEnabled")
        .is_some())
}

/// Says whether a NotificationConfiguration asks for anything.
///
/// # Errors
/// `MalformedXML`.
pub fn notifications_wanted(document: &[u8]) -> S3Result<bool> {
    Ok(!read(document, &["NotificationConfiguration"])?
        .children
        .is_empty())
}

/// Gives the status that a VersioningConfiguration asks for, if any.
///
/// # Errors
/// `MalformedXML`; `IllegalVersioningConfigurationException` without a status.
pub fn versioning_status(document: &[u8]) -> S3Result<String> {
    let root = read(document, &["VersioningConfiguration"])?;
    match root.child_word("Status") {
        Some(status @ ("Enabled" | "Suspended")) => Ok(status.to_owned()),
        Some(_) => Err(malformed("Status")),
        None => Err(S3Error::new(Code::IllegalVersioningConfigurationException)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_bucket_takes_any_region_and_nothing() {
        assert_eq!(
            create_bucket_request(b"").expect("empty"),
            CreateBucketRequest::default()
        );
        let location = |text: &str| {
            let document = format!(
                "<CreateBucketConfiguration><LocationConstraint>{text}</LocationConstraint></CreateBucketConfiguration>"
            );
            create_bucket_request(document.as_bytes()).map(|request| request.location)
        };
        assert_eq!(
            location("xx-any-9").expect("any"),
            Some("xx-any-9".to_owned())
        );
        assert_eq!(location("").expect("none"), None);
        assert_eq!(
            location("a b").expect_err("no region").code(),
            Code::InvalidLocationConstraint
        );
        assert_eq!(
            create_bucket_request(b"junk").expect_err("junk").code(),
            Code::MalformedXML
        );
    }

    #[test]
    fn only_the_owners_full_control_is_a_private_list() {
        let acl = |grants: &str| {
            is_private_acl(
                format!(
                    "<AccessControlPolicy><Owner><ID>me</ID></Owner><AccessControlList>{grants}</AccessControlList>\
                     </AccessControlPolicy>"
                )
                .as_bytes(),
            )
        };
        let grant = |who: &str, what: &str| {
            format!(
                "<Grant><Grantee><ID>{who}</ID></Grantee><Permission>{what}</Permission></Grant>"
            )
        };
        assert!(acl(&grant("me", "FULL_CONTROL")).expect("valid"));
        assert!(!acl(&grant("you", "FULL_CONTROL")).expect("valid"));
        assert!(!acl(&grant("me", "READ")).expect("valid"));
        assert!(!acl("").expect("valid"));
        assert_eq!(
            acl(&grant("me", "ALL")).expect_err("no permission").code(),
            Code::MalformedACLError
        );
    }
}
