//! Names as they enter: a bucket name and an object key, parsed once at the door.
//!
//! This file knows nothing of paths; `path.rs` maps keys to them.

use std::fmt;
use std::sync::Arc;

/// The name of the directory that a bucket reserves for us, at every depth, in any letter case.
pub const RESERVED: &str = ".twintree";
/// The longest key in bytes.
pub const MAX_KEY: usize = 1024;

/// The name of a bucket: a directory directly under the root.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketName(Arc<str>);

impl BucketName {
    /// Accepts what boto3 lets through: `[A-Za-z0-9._-]{1,255}`, not starting with a dot.
    ///
    /// # Errors
    /// The reason, in words, when the name cannot be a bucket's.
    pub fn parse(name: &str) -> Result<Self, &'static str> {
        if name.is_empty() || name.len() > 255 {
            return Err("bucket names have 1 to 255 characters");
        }
        if name.starts_with('.') {
            return Err("bucket names do not start with a dot");
        }
        if !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        {
            return Err("bucket names have letters, digits, dots, hyphens and underscores only");
        }
        Ok(Self(name.into()))
    }

    /// Accepts what S3 accepts for a new bucket: 3 to 63 of `[a-z0-9.-]`, not an IPv4 address, no
    /// reserved prefix or suffix (S3 user guide, "Bucket naming rules").
    ///
    /// # Errors
    /// The reason, in words.
    pub fn parse_new(name: &str) -> Result<Self, &'static str> {
        let parsed = Self::parse(name)?;
        if !(3..=63).contains(&name.len()) {
            return Err("new bucket names have 3 to 63 characters");
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if !name.bytes().all(|b| plain(b) || b == b'.' || b == b'-') {
            return Err("new bucket names have lower-case letters, digits, dots and hyphens only");
        }
        let ends = (name.as_bytes()[0], name.as_bytes()[name.len() - 1]);
        if !plain(ends.0) || !plain(ends.1) {
            return Err("new bucket names begin and end with a letter or digit");
        }
        if name.contains("..") || name.contains(".-") || name.contains("-.") {
            return Err("new bucket names have no dot beside a dot or hyphen");
        }
        if name.split('.').count() == 4 && name.split('.').all(|p| p.parse::<u8>().is_ok()) {
            return Err("bucket names are not IPv4 addresses");
        }
        let banned = ["xn--", "sthree-", "amzn-s3-demo-"]
            .iter()
            .any(|p| name.starts_with(p))
            || ["-s3alias", "--ol-s3", ".mrap", "--x-s3"]
                .iter()
                .any(|s| name.ends_with(s));
        if banned {
            return Err("the bucket name has a prefix or suffix that S3 reserves");
        }
        Ok(parsed)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// An object key: 1 to 1024 bytes of UTF-8 without NUL, no component of it reserved.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(String);

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No byte at all.
    #[error("the key is empty")]
    Empty,
    /// More than [`MAX_KEY`] bytes.
    #[error("the key has {0} bytes, more than 1024")]
    TooLong(usize),
    /// A NUL, which no path can hold.
    #[error("the key holds a NUL")]
    Nul,
    /// A component names the reserved directory.
    #[error("the name .twintree is reserved")]
    Reserved,
}

impl ObjectKey {
    /// Parses a decoded key.
    ///
    /// # Errors
    /// [`KeyError`] says why the text is not a key.
    pub fn parse(key: &str) -> Result<Self, KeyError> {
        if key.is_empty() {
            return Err(KeyError::Empty);
        }
        if key.len() > MAX_KEY {
            return Err(KeyError::TooLong(key.len()));
        }
        if key.contains('\0') {
            return Err(KeyError::Nul);
        }
        // Case-folding filesystems resolve `.TWINTREE` to the same directory.
        if key.split('/').any(|c| c.eq_ignore_ascii_case(RESERVED)) {
            return Err(KeyError::Reserved);
        }
        Ok(Self(key.to_owned()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
