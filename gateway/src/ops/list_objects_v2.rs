//! ListObjectsV2: pages by an opaque token.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use twintree_store::Bucket;

use super::answer;
use super::listing::{Listing, asking, owner_of};
use crate::call::{Call, Reply, blocking};
use crate::error::{S3Error, S3Result};

/// The first byte of a token, so that another text in base64 is not taken for one.
const TOKEN_VERSION: u8 = 1;

/// Answers one page of keys and common prefixes.
///
/// Semantics: `x-amz-optional-object-attributes` asks for the restore status, which no object here has.
///
/// # Errors
/// `InvalidArgument`, and what the disk says.
pub(crate) async fn list_objects_v2(call: &Call, bucket: &Bucket) -> S3Result<Reply> {
    let listing = Listing::of(&call.query)?;
    let given = |name| call.query.get(name).map(str::to_owned);
    let (token, start_after) = (given("continuation-token"), given("start-after"));
    let resumed = token
        .as_deref()
        .filter(|token| !token.is_empty())
        .map(read_token);
    // What a token holds is ours and needs no translation of what a client read in a reply.
    let mut query = listing.query(start_after.as_deref().unwrap_or(""));
    if let Some(after) = resumed.transpose()? {
        query.after = after;
    }
    let fetch_owner = call
        .query
        .get("fetch-owner")
        .is_some_and(|flag| flag.eq_ignore_ascii_case("true"));
    let bucket = bucket.clone();
    let asking = asking(call);
    let xml = blocking(move || {
        let page = bucket.list(&query)?;
        let owner = fetch_owner.then(|| owner_of(&bucket, asking)).transpose()?;
        let mut xml = listing.begin("ListBucketResult", &page);
        xml.text("Name", bucket.name().as_str());
        listing.write_name(&mut xml, "Prefix", &listing.prefix);
        if let Some(start_after) = &start_after {
            listing.write_name(&mut xml, "StartAfter", start_after);
        }
        if let Some(token) = &token {
            xml.text("ContinuationToken", token);
        }
        if let Some(next) = &page.next {
            xml.plain("NextContinuationToken", &token_of(next));
        }
        xml.number(
            "KeyCount",
            (page.objects().len() + page.common_prefixes.len()) as u64,
        );
        listing.write_limits(&mut xml, &page);
        for entry in page.objects() {
            xml.open("Contents");
            listing.write_entry(&mut xml, &entry, owner.as_deref());
            xml.close("Contents");
        }
        listing.write_common_prefixes(&mut xml, &page);
        Ok(xml)
    })
    .await?;
    Ok(answer::document(xml))
}

/// The token that goes on after this key or common prefix.
fn token_of(after: &str) -> String {
    let mut bytes = Vec::with_capacity(1 + after.len());
    bytes.push(TOKEN_VERSION);
    bytes.extend_from_slice(after.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_token(token: &str) -> S3Result<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let after = bytes
        .as_deref()
        .and_then(|bytes| bytes.strip_prefix(&[TOKEN_VERSION]));
    let after = after
        .and_then(|after| std::str::from_utf8(after).ok())
        .filter(|after| !after.is_empty());
    after.map(str::to_owned).ok_or_else(|| {
        let message = "The continuation token provided is incorrect";
        S3Error::invalid_argument("continuation-token", token, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_garbage_is_refused() {
        for text in ["a", "a/b c+d/", "é\u{1}"] {
            assert_eq!(read_token(&token_of(text)), Ok(text.to_owned()));
        }
        for garbage in ["!", "abcd", "AQ", "YQ", "AQ==", "Af8"] {
            assert!(read_token(garbage).is_err(), "{garbage}");
        }
    }
}
