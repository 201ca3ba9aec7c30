//! What the three listings of objects share: the questions that they all take, and the elements that they
//! all answer with.
//!
//! Pages are rendered where they are made, on the blocking pool: a thousand entries are a tenth of a
//! millisecond of pure computing.

use twintree_store::path::escaped_byte;
use twintree_store::{Bucket, ETag, ListEntry, ListPage, ListQuery};

use crate::call::Call;
use crate::checksum;
use crate::error::{S3Error, S3Result};
use crate::route::Query;
use crate::xml::{Encoding, Writer};

use super::owner;

/// Entries of a page where the client does not say, and at most.
const MAX_KEYS: usize = 1000;
/// Bytes of an entry without its key.
const ENTRY: usize = 360;

/// What every listing of objects is asked.
#[derive(Debug)]
pub(crate) struct Listing {
    /// As sent.
    pub prefix: String,
    /// As sent; an empty one is none.
    pub delimiter: Option<String>,
    /// At most [`MAX_KEYS`].
    pub max_keys: usize,
    /// How names go into the reply.
    pub encoding: Encoding,
}

impl Listing {
    /// Reads the parameters that all listings have.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn of(query: &Query) -> S3Result<Self> {
        let given = |name| query.get(name).filter(|value| !value.is_empty());
        Ok(Self {
            prefix: given("prefix").unwrap_or("").to_owned(),
            delimiter: given("delimiter").map(str::to_owned),
            max_keys: max_keys(given("max-keys"))?,
            encoding: encoding(query)?,
        })
    }

    /// The store's question for the page after `marker`.
    pub fn query(&self, marker: &str) -> ListQuery {
        ListQuery {
            prefix: self.meant(&self.prefix),
            delimiter: self.delimiter.clone().unwrap_or_default(),
            after: self.meant(marker),
            max_keys: self.max_keys,
        }
    }

    /// The name that a client means which read it in a reply of ours.
    ///
    /// Semantics: XML cannot carry most control characters; without `encoding-type=url` we show each as a
    /// character of plane 16 (FORMATS, *Names that are not UTF-8*), and it comes back to us as that.
    fn meant(&self, name: &str) -> String {
        let control = |c| escaped_byte(c).filter(u8::is_ascii_control);
        if self.encoding == Encoding::Url || !name.contains(|c| control(c).is_some()) {
            return name.to_owned();
        }
        name.chars()
            .map(|c| control(c).map_or(c, char::from))
            .collect()
    }

    /// Starts a reply that has room for the page.
    pub fn begin(&self, root: &'static str, page: &ListPage) -> Writer {
        let keys: usize = page.objects().map(|entry| entry.key.len() + ENTRY).sum();
        let groups: usize = page
            .common_prefixes
            .iter()
            .map(|group| group.len() + 64)
            .sum();
        Writer::s3(root, 1024 + keys + groups)
    }

    /// Writes the elements that end the head of every reply.
    pub fn write_limits(&self, xml: &mut Writer, page: &ListPage) {
        xml.number("MaxKeys", self.max_keys as u64);
        if let Some(delimiter) = &self.delimiter {
            self.write_name(xml, "Delimiter", delimiter);
        }
        if self.encoding == Encoding::Url {
            xml.plain("EncodingType", "url");
        }
        xml.flag("IsTruncated", page.next.is_some());
    }

    /// Writes an element that holds a key, a prefix or a part of one.
    pub fn write_name(&self, xml: &mut Writer, element: &str, name: &str) {
        xml.name(element, name, self.encoding);
    }

    /// Writes the object of an entry, inside an element that the caller opened: in as few pieces as there are, since
    /// a page has a thousand.
    pub fn write_entry(&self, xml: &mut Writer, entry: &ListEntry, owner: Option<&str>) {
        xml.raw(b"<Key>");
        xml.push_name(entry.key, self.encoding);
        xml.raw(b"</Key><LastModified>");
        xml.push_time(entry.modified);
        xml.raw(b"</LastModified><ETag>&quot;");
        push_etag(xml, &entry.etag);
        xml.raw(b"&quot;</ETag>");
        if let Some((algorithm, kind)) = entry.checksum {
            xml.plain("ChecksumAlgorithm", checksum::name_of(algorithm));
            xml.plain("ChecksumType", checksum::type_name(kind));
        }
        xml.raw(b"<Size>");
        xml.push_decimal(entry.size);
        xml.raw(b"</Size>");
        if let Some(id) = owner {
            owner::write(xml, "Owner", id);
        }
        xml.raw(b"<StorageClass>STANDARD</StorageClass>");
    }

    /// Writes the groups of a page, which come after its keys.
    pub fn write_common_prefixes(&self, xml: &mut Writer, page: &ListPage) {
        for group in &page.common_prefixes {
            xml.open("CommonPrefixes");
            self.write_name(xml, "Prefix", group);
            xml.close("CommonPrefixes");
        }
    }
}

/// Gives the owner of a bucket's objects: the bucket's. Blocking.
///
/// # Errors
/// What the disk says.
pub(crate) fn owner_of(bucket: &Bucket, asking: String) -> S3Result<String> {
    Ok(bucket.settings()?.owner.unwrap_or(asking))
}

/// Gives who asks, for a bucket without a recorded owner.
pub(crate) fn asking(call: &Call) -> String {
    call.principal.access_key_id.clone()
}

fn max_keys(text: Option<&str>) -> S3Result<usize> {
    let Some(text) = text else {
        return Ok(MAX_KEYS);
    };
    let refuse = |message| Err(S3Error::invalid_argument("maxKeys", text, message));
    match text.parse::<i32>() {
        Ok(number) if number >= 0 => Ok((number as usize).min(MAX_KEYS)),
        Ok(_) => refuse("Argument maxKeys must be an integer between 0 and 2147483647"),
        Err(_) => refuse("Provided max-keys not an integer or within integer range"),
    }
}

/// Reads `encoding-type`.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn encoding(query: &Query) -> S3Result<Encoding> {
    match query.get("encoding-type") {
        None | Some("") => Ok(Encoding::Plain),
        Some("url") => Ok(Encoding::Url),
        Some(other) => Err(S3Error::invalid_argument(
            "encoding-type",
            other,
            "Invalid Encoding Method specified in Request",
        )),
    }
}

/// Appends an ETag without making a string of it.
fn push_etag(xml: &mut Writer, etag: &ETag) {
    let (bytes, parts) = etag.shown();
    xml.push_hex(&bytes);
    if let Some(parts) = parts {
        xml.raw(b"-");
        xml.push_decimal(parts.into());
    }
}
