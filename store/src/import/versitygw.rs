//! What versitygw recorded of a file: `user.etag` in quotes, `user.checksums` (JSON), `user.metadata` (JSON; before that
//! one xattr `user.X-Amz-Meta.NAME` for each), `user.X-Amz-Tagging` (JSON), and `user.content-type` with its like.
//! Folders that are objects have the same.

use std::os::fd::OwnedFd;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs;
use serde_json::{Map, Value};

use super::{BucketClaim, HEADERS, parse_etag, texts};
use crate::sealer::adopt::Claim;
use crate::{Algorithm, Checksum, ChecksumType, Meta, ObjectChecksum};

/// The largest xattr (xattr(7)).
const XATTR_MAX: usize = 65_536;
/// The prefix of user metadata before it was one JSON.
const OLD_METADATA: &str = "user.X-Amz-Meta.";
/// The type that it gives to folders by itself.
const FOLDER_TYPE: &[u8] = b"application/x-directory";

/// What it recorded of a file or folder; `None`: nothing.
pub(super) fn claim(file: &OwnedFd, is_directory: bool) -> Option<Claim> {
    let theirs = Theirs(file);
    let etag = theirs.text("user.etag")?;
    Some(theirs.claim(&etag, is_directory))
}

/// What it recorded of a bucket, in xattrs of its directory.
pub(super) fn bucket(dir: &OwnedFd) -> BucketClaim {
    let theirs = Theirs(dir);
    let acl = theirs.json("user.acl");
    let granted = acl
        .get("Grantees")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let lock = theirs.json("user.bucket-lock");
    let others = [
        // The owner's own grant is the one that everything has here.
        ("access list", granted > 1),
        (
            "policy",
            theirs
                .bytes("user.policy")
                .is_some_and(|policy| !policy.is_empty()),
        ),
        (
            "CORS rules",
            theirs
                .bytes("user.cors")
                .is_some_and(|rules| !rules.is_empty()),
        ),
        (
            "object lock",
            lock.get("Enabled") == Some(&Value::Bool(true)),
        ),
    ];
    let set = others.iter().filter(|(_, is_set)| *is_set);
    BucketClaim {
        tags: texts(theirs.json("user.X-Amz-Tagging")),
        others: set.map(|(what, _)| *what).collect(),
    }
}

/// A file or folder with versitygw's xattrs.
struct Theirs<'a>(&'a OwnedFd);

impl Theirs<'_> {
    fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; XATTR_MAX];
        let length = fs::fgetxattr(self.0, name, &mut value[..]).ok()?;
        value.truncate(length);
        Some(value)
    }

    fn text(&self, name: &str) -> Option<String> {
        String::from_utf8(self.bytes(name)?).ok()
    }

    fn json(&self, name: &str) -> Map<String, Value> {
        self.bytes(name)
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default()
    }

    fn claim(&self, etag: &str, is_directory: bool) -> Claim {
        Claim {
            etag: parse_etag(etag),
            parts: Vec::new(),
            checksums: checksums(&self.json("user.checksums")),
            meta: self.meta(is_directory),
        }
    }

    fn meta(&self, is_directory: bool) -> Meta {
        let mut user: Vec<(String, Vec<u8>)> = texts(self.json("user.metadata"))
            .into_iter()
            .map(|(name, value)| (name.to_lowercase(), value.into_bytes()))
            .collect();
        for name in self.names() {
            if let Some(short) = name.strip_prefix(OLD_METADATA)
                && let Some(value) = self.bytes(&name)
                && !user.iter().any(|(known, _)| *known == short.to_lowercase())
            {
                user.push((short.to_lowercase(), value));
            }
        }
        let headers = HEADERS.iter().filter_map(|name| {
            let value = self.bytes(&format!("user.{name}"))?;
            Some(((*name).to_owned(), value))
        });
        // Without a type from a client it writes the one that a client is shown anyway.
        let content_type = self.bytes("user.content-type").filter(|kind| {
            let own: &[u8] = if is_directory {
                FOLDER_TYPE
            } else {
                crate::content_type::NONE.as_bytes()
            };
            kind != own
        });
        Meta {
            content_type,
            headers: headers.collect(),
            user,
            tags: texts(self.json("user.X-Amz-Tagging")),
        }
    }

    fn names(&self) -> Vec<String> {
        let mut list = vec![0; XATTR_MAX];
        let length = fs::flistxattr(self.0, &mut list[..]).unwrap_or(0);
        list[..length]
            .split(|byte| *byte == 0)
            .filter_map(|name| String::from_utf8(name.to_vec()).ok())
            .collect()
    }
}

/// Checksums of all the bytes, in algorithms that are ours too.
fn checksums(json: &Map<String, Value>) -> Vec<ObjectChecksum> {
    if json.get("Type").and_then(Value::as_str) != Some("FULL_OBJECT") {
        return Vec::new();
    }
    let known = [
        ("CRC32", Algorithm::Crc32),
        ("CRC32C", Algorithm::Crc32c),
        ("CRC64NVME", Algorithm::Crc64Nvme),
        ("SHA1", Algorithm::Sha1),
        ("SHA256", Algorithm::Sha256),
    ];
    let of = |(name, algorithm): (&str, Algorithm)| {
        let value = STANDARD.decode(json.get(name)?.as_str()?).ok()?;
        (value.len() == algorithm.value_len()).then_some(ObjectChecksum {
            checksum: Checksum { algorithm, value },
            kind: ChecksumType::FullObject,
        })
    };
    known.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_checksums_of_the_whole_in_algorithms_of_ours_are_taken() {
        let read = |text: &str| checksums(&serde_json::from_str(text).expect("JSON"));
        let whole =
            read(r#"{"Type":"FULL_OBJECT","CRC32":"NhCmhg==","SHA512":"AAAA","SHA1":null}"#);
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].checksum.algorithm, Algorithm::Crc32);
        assert!(read(r#"{"Type":"COMPOSITE","CRC32":"NhCmhg=="}"#).is_empty());
        assert!(read(r#"{"Type":"FULL_OBJECT","CRC32":"NhCm"}"#).is_empty());
    }
}
