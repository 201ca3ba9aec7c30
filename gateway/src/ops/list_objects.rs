//! ListObjects, the first version: pages by marker.

use twintree_store::Bucket;

use super::answer;
use super::listing::{Listing, asking, owner_of};
use crate::call::{Call, Reply, blocking};
use crate::error::S3Result;

/// Answers one page of keys and common prefixes.
///
/// Semantics: the API page promises `NextMarker` only with a delimiter; it does no harm without, and clients
/// that forget the last key then still page.
///
/// # Errors
/// `InvalidArgument`, and what the disk says.
pub(crate) async fn list_objects(call: &Call, bucket: &Bucket) -> S3Result<Reply> {
    let listing = Listing::of(&call.query)?;
    let marker = call.query.get("marker").unwrap_or("").to_owned();
    let bucket = bucket.clone();
    let asking = asking(call);
    let xml = blocking(move || {
        let page = bucket.list(&listing.query(&marker))?;
        let owner = owner_of(&bucket, asking)?;
        let mut xml = listing.begin("ListBucketResult", &page);
        xml.text("Name", bucket.name().as_str());
        listing.write_name(&mut xml, "Prefix", &listing.prefix);
        listing.write_name(&mut xml, "Marker", &marker);
        if let Some(next) = &page.next {
            listing.write_name(&mut xml, "NextMarker", next);
        }
        listing.write_limits(&mut xml, &page);
        for entry in page.objects() {
            xml.open("Contents");
            listing.write_entry(&mut xml, &entry, Some(&owner));
            xml.close("Contents");
        }
        listing.write_common_prefixes(&mut xml, &page);
        Ok(xml)
    })
    .await?;
    Ok(answer::document(xml))
}
