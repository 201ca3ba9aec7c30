//! ListBuckets: all buckets, or a page of them under a prefix.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use twintree_store::BucketInfo;

use super::{answer, owner};
use crate::call::{Call, Reply, blocking};
use crate::error::{S3Error, S3Result};
use crate::xml::Writer;

/// The most buckets of one page.
const MAX_BUCKETS: usize = 10_000;

/// What a page is asked for.
struct Page {
    prefix: String,
    after: Option<String>,
    most: Option<usize>,
    region: Option<String>,
}

/// Answers the buckets in name order.
///
/// # Errors
/// `InvalidArgument`; `ServiceUnavailable` when the root is gone.
pub(crate) async fn list_buckets(call: &Call) -> S3Result<Reply> {
    let page = Page::of(call)?;
    let store = call.gateway.store.clone();
    let buckets = blocking(move || Ok(store.buckets()?)).await?;
    let region = &call.gateway.settings.region;
    let region_of = |bucket: &BucketInfo| bucket.location.clone().unwrap_or_else(|| region.clone());
    let matching = buckets.iter().filter(|bucket| {
        let name = bucket.name.as_str();
        name.starts_with(&page.prefix)
            && page.after.as_deref().is_none_or(|after| name > after)
            && page
                .region
                .as_ref()
                .is_none_or(|wanted| *wanted == region_of(bucket))
    });
    let most = page.most.unwrap_or(usize::MAX);
    let mut found: Vec<&BucketInfo> = matching.take(most.saturating_add(1)).collect();
    let truncated = found.len() > most;
    found.truncate(most);

    let mut xml = Writer::s3("ListAllMyBucketsResult", 512 + 160 * found.len());
    owner::write(&mut xml, "Owner", &call.principal.access_key_id);
    xml.open("Buckets");
    for bucket in &found {
        xml.open("Bucket");
        xml.text("Name", bucket.name.as_str());
        xml.time("CreationDate", bucket.created);
        if page.most.is_some() || call.query.has("bucket-region") {
            xml.text("BucketRegion", &region_of(bucket));
        }
        xml.close("Bucket");
    }
    xml.close("Buckets");
    if let Some(last) = found.last().filter(|_| truncated) {
        xml.plain(
            "ContinuationToken",
            &URL_SAFE_NO_PAD.encode(last.name.as_str()),
        );
    }
    if call.query.has("prefix") {
        xml.text("Prefix", &page.prefix);
    }
    Ok(answer::document(xml))
}

impl Page {
    fn of(call: &Call) -> S3Result<Page> {
        let query = &call.query;
        let most = query.get("max-buckets").map(|text| {
            let number = text
                .parse()
                .ok()
                .filter(|number| (1..=MAX_BUCKETS).contains(number));
            number.ok_or_else(|| {
                S3Error::invalid_argument(
                    "max-buckets",
                    text,
                    "max-buckets must be between 1 and 10000",
                )
            })
        });
        let after = query
            .get("continuation-token")
            .filter(|token| !token.is_empty())
            .map(|token| {
                let bytes = URL_SAFE_NO_PAD.decode(token).ok();
                bytes
                    .and_then(|bytes| String::from_utf8(bytes).ok())
                    .ok_or_else(|| {
                        S3Error::invalid_argument(
                            "continuation-token",
                            token,
                            "The continuation token provided is incorrect",
                        )
                    })
            });
        Ok(Page {
            prefix: query.get("prefix").unwrap_or("").to_owned(),
            after: after.transpose()?,
            most: most.transpose()?,
            region: query
                .get("bucket-region")
                .filter(|region| !region.is_empty())
                .map(str::to_owned),
        })
    }
}
