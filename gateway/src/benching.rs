//! What `benches/` measures and nobody else sees: with the feature `benching`, which our own dev-dependency asks for.

use twintree_store::ListPage;

use crate::error::S3Result;
use crate::ops::listing::Listing;
use crate::route::Query;

/// A page of a listing as XML: what all of its keys and common prefixes take; the head has fewer elements than a real one's.
///
/// # Errors
/// A query that no listing understands.
pub fn page_as_xml(query: &str, page: &ListPage) -> S3Result<Vec<u8>> {
    let listing = Listing::of(&Query::parse(query)?)?;
    let mut xml = listing.begin("ListBucketResult", page);
    listing.write_limits(&mut xml, page);
    for entry in page.objects() {
        xml.open("Contents");
        listing.write_entry(&mut xml, &entry, None);
        xml.close("Contents");
    }
    listing.write_common_prefixes(&mut xml, page);
    Ok(xml.finish())
}
