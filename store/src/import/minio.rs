//! What MinIO's filesystem mode recorded of an object: `.minio.sys/buckets/BUCKET/KEY/fs.json` at the root, with `meta`
//! (the ETag, headers and user metadata by their names, tags as a query) and `parts` (their sizes).

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use serde_json::{Map, Value};

use super::{BucketClaim, HEADERS, minio_bucket, parse_etag, texts};
use crate::lifecycle::entries;
use crate::sealer::adopt::Claim;
use crate::{Access, Digester, ETag, Meta, content_type};

/// The longest file that is read, in bytes.
const LONGEST: u64 = 4 << 20;
/// What user metadata begins with, in lower case.
const USER: &str = "x-amz-meta-";

/// What it recorded of `BUCKET/KEY` below a root; `None`: nothing that can be read.
pub(super) fn claim(root: &OwnedFd, inside: &[u8]) -> Option<Claim> {
    // A name that is no UTF-8 was no key of MinIO's.
    let path = format!(
        ".minio.sys/buckets/{}/fs.json",
        str::from_utf8(inside).ok()?
    );
    read(serde_json::from_slice(&contents(root, &path)?).ok()?)
}

/// What it recorded of a bucket.
pub(super) fn bucket(root: &OwnedFd, name: &str) -> BucketClaim {
    let path = format!(".minio.sys/buckets/{name}/.metadata.bin");
    contents(root, &path).map_or_else(BucketClaim::default, |bytes| minio_bucket::read(&bytes))
}

/// A file of its own below a root; `None`: it cannot be read.
fn contents(root: &OwnedFd, path: &str) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |flags| crate::bucket::open_beneath(root, path, flags, Access::Blocking);
    // Reading leaves no trace, where we may ask for that.
    let file = open(flags | OFlags::NOATIME)
        .or_else(|_| open(flags))
        .ok()?;
    let mut bytes = Vec::new();
    File::from(file)
        .take(LONGEST)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

/// An empty folder is an object there, and nothing is recorded of it.
pub(super) fn empty_folder(dir: &OwnedFd) -> Option<Claim> {
    let is_empty = entries(dir).is_ok_and(|names| names.is_empty());
    is_empty.then(|| Claim {
        etag: Digester::new(&[]).finish().md5.map(ETag::Md5),
        ..Claim::default()
    })
}

fn read(mut json: Map<String, Value>) -> Option<Claim> {
    let Value::Object(meta) = json.remove("meta")? else {
        return None;
    };
    let mut claim = Claim::default();
    for (name, value) in texts(meta) {
        let name = name.to_lowercase();
        match name.as_str() {
            "etag" => claim.etag = parse_etag(&value),
            // What it shows of an object that nobody gave a type.
            "content-type" if value == content_type::NONE => {}
            "content-type" => claim.meta.content_type = Some(value.into_bytes()),
            "x-amz-tagging" => claim.meta.tags = query(&value),
            header if HEADERS.contains(&header) => {
                claim.meta.headers.push((name, value.into_bytes()));
            }
            other => {
                if let Some(short) = other.strip_prefix(USER) {
                    claim.meta.user.push((short.to_owned(), value.into_bytes()));
                }
            }
        }
    }
    let parts = json.get("parts").and_then(Value::as_array);
    let sizes = parts.into_iter().flatten();
    claim.parts = sizes
        .filter_map(|part| part.get("size")?.as_u64())
        .collect();
    sort(&mut claim.meta);
    claim.etag?;
    Some(claim)
}

/// Go's maps have no order.
fn sort(meta: &mut Meta) {
    meta.headers.sort();
    meta.user.sort();
}

/// `a=b&c=d`, escaped as in a URL.
fn query(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescape(name)?, unescape(value)?))
        })
        .collect()
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, later @ ..] = rest {
        rest = later;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = str::from_utf8(rest.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &rest[2..];
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fs_json_is_read_as_minio_writes_it() {
        let text = r#"{"version":"1.0.2","checksum":{"algorithm":"","blocksize":0,"hashes":null},
            "meta":{"X-Amz-Meta-Colour":"blue","content-type":"image/png","etag":"5d41402abc4b2a76b9719d911017c592-2",
            "X-Amz-Tagging":"a=b+c&d=%C3%A4","cache-control":"no-cache"},
            "parts":[{"number":1,"name":"","etag":"","size":5242880,"actualSize":5242880},{"number":2,"size":4}]}"#;
        let claim = read(serde_json::from_str(text).expect("JSON")).expect("a claim");
        assert!(matches!(claim.etag, Some(ETag::Multipart(_, 2))));
        assert_eq!(claim.parts, [5_242_880, 4]);
        assert_eq!(claim.meta.content_type.as_deref(), Some(&b"image/png"[..]));
        assert_eq!(claim.meta.user, [("colour".to_owned(), b"blue".to_vec())]);
        let tags = [("a", "b c"), ("d", "ä")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(claim.meta.tags, tags);
        assert_eq!(
            claim.meta.headers,
            [("cache-control".to_owned(), b"no-cache".to_vec())]
        );
    }

    #[test]
    fn what_is_no_fs_json_is_no_claim() {
        for text in [
            "{}",
            r#"{"meta":1}"#,
            r#"{"meta":{}}"#,
            r#"{"meta":{"etag":"x"}}"#,
        ] {
            assert!(
                read(serde_json::from_str(text).expect("JSON")).is_none(),
                "{text}"
            );
        }
        assert_eq!(query("a=%zz&%4=&b"), [("b".to_owned(), String::new())]);
    }
}
