//! GetObjectAttributes: what is known of an object, as a document, without its bytes.

use http::HeaderValue;
use http::header::LAST_MODIFIED;
use twintree_store::{Access, Bucket, ObjectInfo, ObjectKey};

use super::answer;
use super::version::Version;
use crate::call::{Call, Reply, blocking};
use crate::checksum;
use crate::date;
use crate::error::{S3Error, S3Result};
use crate::xml::Writer;

const WANTED: &str = "x-amz-object-attributes";
const MAX_PARTS: &str = "x-amz-max-parts";
const PART_MARKER: &str = "x-amz-part-number-marker";
/// The most parts of one reply.
const PARTS_PER_PAGE: usize = 1000;

/// Which attributes are asked for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Attributes {
    etag: bool,
    checksum: bool,
    parts: bool,
    storage_class: bool,
    size: bool,
}

/// Which parts are asked for: so many after this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PartPage {
    most: usize,
    after: u16,
}

/// Answers the attributes that the request names.
///
/// # Errors
/// `InvalidArgument`, `NoSuchKey`, `NoSuchVersion`, and what the disk says.
pub(crate) async fn get_object_attributes(
    call: &Call,
    bucket: &Bucket,
    key: &ObjectKey,
) -> S3Result<Reply> {
    let version = Version::of(&call.query)?;
    let attributes = Attributes::of(call)?;
    let page = PartPage::of(call)?;
    let (bucket, key) = (bucket.clone(), key.clone());
    let info = blocking(move || Ok(bucket.open(&key, Access::Blocking)?.info)).await?;
    let mut reply = answer::document(describe(&info, &attributes, page));
    if let Ok(modified) = HeaderValue::try_from(date::http_date(info.modified.seconds())) {
        reply.headers_mut().insert(LAST_MODIFIED, modified);
    }
    version.name_in(&mut reply);
    Ok(reply)
}

impl Attributes {
    fn of(call: &Call) -> S3Result<Attributes> {
        let lines = call.parts.headers.get_all(WANTED);
        Self::parse(
            lines
                .iter()
                .map(|line| String::from_utf8_lossy(line.as_bytes())),
        )
    }

    fn parse<S: AsRef<str>>(lines: impl Iterator<Item = S>) -> S3Result<Attributes> {
        let mut wanted = Attributes::default();
        for line in lines {
            for name in line
                .as_ref()
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
            {
                match name {
                    "ETag" => wanted.etag = true,
                    "Checksum" => wanted.checksum = true,
                    "ObjectParts" => wanted.parts = true,
                    "StorageClass" => wanted.storage_class = true,
                    "ObjectSize" => wanted.size = true,
                    other => {
                        return Err(S3Error::invalid_argument(
                            WANTED,
                            other,
                            "Invalid attribute name specified.",
                        ));
                    }
                }
            }
        }
        if wanted == Attributes::default() {
            let message = "The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty";
            return Err(S3Error::invalid_argument(WANTED, "", message));
        }
        Ok(wanted)
    }
}

impl PartPage {
    fn of(call: &Call) -> S3Result<PartPage> {
        let number = |name: &'static str| {
            let value = call.parts.headers.get(name)?;
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            let parsed = text.trim().parse::<u32>();
            Some(parsed.map_err(|_| S3Error::invalid_argument(name, text, "not a number")))
        };
        let most = number(MAX_PARTS)
            .transpose()?
            .map_or(PARTS_PER_PAGE, |most| most as usize);
        let after = number(PART_MARKER).transpose()?.unwrap_or(0);
        Ok(PartPage {
            most: most.min(PARTS_PER_PAGE),
            after: u16::try_from(after).unwrap_or(u16::MAX),
        })
    }
}

fn describe(info: &ObjectInfo, attributes: &Attributes, page: PartPage) -> Writer {
    let mut xml = Writer::s3("GetObjectAttributesResponse", 1024);
    if attributes.etag {
        // The one place in S3 where an ETag has no quotes.
        xml.plain("ETag", &info.etag.to_string());
    }
    if let Some(checksum) = info.checksum.as_ref().filter(|_| attributes.checksum) {
        xml.open("Checksum");
        let element = checksum::element_of(checksum.checksum.algorithm);
        xml.plain(element, &checksum::encode_object(checksum, info.part_count));
        xml.plain("ChecksumType", checksum::type_name(checksum.kind));
        xml.close("Checksum");
    }
    if let Some(count) = info.part_count.filter(|_| attributes.parts) {
        write_parts(&mut xml, info, count, page);
    }
    if attributes.storage_class {
        let class = info
            .meta
            .headers
            .iter()
            .find(|(name, _)| name == "x-amz-storage-class");
        let class = class.map_or("STANDARD".into(), |(_, value)| {
            String::from_utf8_lossy(value)
        });
        xml.text("StorageClass", &class);
    }
    if attributes.size {
        xml.number("ObjectSize", info.size);
    }
    xml
}

fn write_parts(xml: &mut Writer, info: &ObjectInfo, count: u16, page: PartPage) {
    xml.open("ObjectParts");
    xml.number("PartsCount", u64::from(count));
    if !info.parts.is_empty() {
        let after = info.parts.iter().filter(|part| part.number > page.after);
        let shown: Vec<_> = after.clone().take(page.most).collect();
        xml.number("PartNumberMarker", u64::from(page.after));
        if let Some(last) = shown.last() {
            xml.number("NextPartNumberMarker", u64::from(last.number));
        }
        xml.number("MaxParts", page.most as u64);
        // A page of no parts has no marker to go on from, so it ends the list.
        xml.flag(
            "IsTruncated",
            !shown.is_empty() && after.count() > shown.len(),
        );
        for part in shown {
            xml.open("Part");
            xml.number("PartNumber", u64::from(part.number));
            xml.number("Size", part.size);
            if let Some(checksum) = &part.checksum {
                xml.plain(
                    checksum::element_of(checksum.algorithm),
                    &checksum::encode(checksum),
                );
            }
            xml.close("Part");
        }
    }
    xml.close("ObjectParts");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn attributes_are_a_list_and_at_least_one() {
        let parse = |lines: &[&str]| Attributes::parse(lines.iter());
        let both = parse(&["ETag, ObjectSize", "Checksum"]).expect("valid");
        assert!(both.etag && both.size && both.checksum && !both.parts && !both.storage_class);
        for lines in [&["ETag,Nonsense"][..], &[""], &[]] {
            assert_eq!(
                parse(lines).expect_err("refused").code(),
                Code::InvalidArgument
            );
        }
    }
}
