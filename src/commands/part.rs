//! `BUCKET[/PREFIX]`: which part of a tree a command is about.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Result, bail};
use twintree_store::{BucketName, path};

/// The objects of a bucket whose keys begin with a prefix.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// The bucket.
    pub bucket: BucketName,
    /// Empty: all of it.
    pub prefix: String,
}

impl Part {
    /// Reads `BUCKET[/PREFIX]`. A prefix in UTF-8 is the beginning of keys as S3 shows them; other bytes are
    /// those of names on disk.
    ///
    /// # Errors
    /// The text before the first slash is no bucket's name.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        let slash = bytes.iter().position(|byte| *byte == b'/');
        let (name, rest) = match slash {
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (bytes, &b""[..]),
        };
        let name = String::from_utf8_lossy(name);
        let Ok(bucket) = BucketName::parse(&name) else {
            bail!(
                "{name:?} is no bucket's name: give BUCKET or BUCKET/PREFIX, without the root's path"
            );
        };
        let prefix = match str::from_utf8(rest) {
            Ok(key) => key.to_owned(),
            Err(_) => path::key_text(rest).into_owned(),
        };
        Ok(Self { bucket, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(text: &[u8]) -> Option<(String, String)> {
        let part = Part::parse(OsStr::from_bytes(text)).ok()?;
        Some((part.bucket.to_string(), part.prefix))
    }

    #[test]
    fn the_first_slash_ends_the_bucket() {
        let is = |text: &[u8], bucket: &str, prefix: &str| {
            assert_eq!(part(text), Some((bucket.to_owned(), prefix.to_owned())));
        };
        is(b"photos", "photos", "");
        is(b"photos/", "photos", "");
        is(b"photos/a/b", "photos", "a/b");
        is(b"photos//a", "photos", "/a");
        is(b"photos/\xff", "photos", "\u{10feff}");
        is("photos/\u{10feff}".as_bytes(), "photos", "\u{10feff}");
        assert_eq!(part(b"/srv/photos"), None);
        assert_eq!(part(b""), None);
    }
}
