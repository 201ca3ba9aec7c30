//! ListObjectVersions while no bucket keeps versions: every object once, as the version `null`, the latest.

use twintree_store::Bucket;

use super::answer;
use super::listing::{Listing, asking, owner_of};
use crate::call::{Call, Reply, blocking};
use crate::error::{S3Error, S3Result};

/// Answers one page of versions and common prefixes.
///
/// # Errors
/// `InvalidArgument`, and what the disk says.
pub(crate) async fn list_object_versions(call: &Call, bucket: &Bucket) -> S3Result<Reply> {
    let listing = Listing::of(&call.query)?;
    let key_marker = call.query.get("key-marker").unwrap_or("").to_owned();
    let version_marker = call.query.get("version-id-marker").unwrap_or("").to_owned();
    check_markers(&key_marker, &version_marker)?;
    let bucket = bucket.clone();
    let asking = asking(call);
    let xml = blocking(move || {
        let page = bucket.list(&listing.query(&key_marker))?;
        let owner = owner_of(&bucket, asking)?;
        let mut xml = listing.begin("ListVersionsResult", &page);
        xml.text("Name", bucket.name().as_str());
        listing.write_name(&mut xml, "Prefix", &listing.prefix);
        listing.write_name(&mut xml, "KeyMarker", &key_marker);
        xml.text("VersionIdMarker", &version_marker);
        if let Some(next) = &page.next {
            listing.write_name(&mut xml, "NextKeyMarker", next);
            // A common prefix has no version.
            if page.last_key() == Some(next) {
                xml.plain("NextVersionIdMarker", "null");
            }
        }
        listing.write_limits(&mut xml, &page);
        for entry in page.objects() {
            xml.open("Version");
            xml.plain("VersionId", "null");
            xml.flag("IsLatest", true);
            listing.write_entry(&mut xml, &entry, Some(&owner));
            xml.close("Version");
        }
        listing.write_common_prefixes(&mut xml, &page);
        Ok(xml)
    })
    .await?;
    Ok(answer::document(xml))
}

/// A version is a place among the versions of a key, of which there is one.
fn check_markers(key: &str, version: &str) -> S3Result<()> {
    match version {
        "" => Ok(()),
        _ if key.is_empty() => Err(S3Error::invalid_argument(
            "version-id-marker",
            version,
            "A version-id marker cannot be specified without a key marker.",
        )),
        "null" => Ok(()),
        other => Err(S3Error::invalid_argument(
            "version-id-marker",
            other,
            "Invalid version id specified",
        )),
    }
}
