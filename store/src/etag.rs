//! Entity tags: of a body (MD5, or CRC64NVME and random bits), of a multipart upload, and the derived one of a
//! file nobody PUT.

use std::collections::BTreeMap;
use std::fmt;

use crate::hash::Md5;
use crate::{Algorithm, BucketName, Digester, Digests, FluxNumber, Timestamp, random};

/// An entity tag; displays without quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ETag {
    /// The MD5 of the body.
    Md5([u8; 16]),
    /// The MD5 of the parts' MD5s, and how many parts there were.
    Multipart([u8; 16], u16),
    /// 128 bits derived from inode, size, mtime and ctime; shows as 32 hex digits and `-1`.
    Derived(u64, u64),
    /// `etag = "crc64"`: the CRC64NVME and 64 random bits; shows as 32 hex digits and `-1`.
    Opaque([u8; 16]),
}

impl ETag {
    /// Of no bytes: what a directory has that is an object.
    pub(crate) const EMPTY: Self =
        Self::Md5(0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e_u128.to_be_bytes());

    /// One that no other write has, of the same bytes or of others.
    pub(crate) fn opaque(crc64: u64) -> Self {
        let both = u128::from(crc64) << 64 | u128::from(random::number());
        Self::Opaque(both.to_be_bytes())
    }

    /// What it shows: 16 bytes as hex digits and, where it is no MD5 of a body, the number behind the hyphen.
    pub fn shown(&self) -> ([u8; 16], Option<u16>) {
        match self {
            Self::Md5(md5) => (*md5, None),
            Self::Multipart(md5, parts) => (*md5, Some(*parts)),
            Self::Derived(h1, h2) => {
                let both = u128::from(*h1) << 64 | u128::from(*h2);
                (both.to_be_bytes(), Some(1))
            }
            Self::Opaque(bytes) => (*bytes, Some(1)),
        }
    }
}

impl ETag {
    /// As headers show it.
    pub fn quoted(&self) -> Vec<u8> {
        let (bytes, parts) = self.shown();
        let mut text = Vec::with_capacity(40);
        text.push(b'"');
        text.extend_from_slice(&hex(&bytes));
        if let Some(parts) = parts {
            text.push(b'-');
            text.extend_from_slice(parts.to_string().as_bytes());
        }
        text.push(b'"');
        text
    }
}

/// What the ETag is of an object that is written, copied or sealed as a whole. Parts have MD5s in either case:
/// that of a multipart object is made of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ETagKind {
    /// [`ETag::Md5`].
    #[default]
    Md5,
    /// [`ETag::Opaque`]: nothing is computed that the record does not have anyway.
    Crc64,
}

impl ETagKind {
    /// Computes what such an ETag takes, and `extra`.
    pub(crate) fn digester(self, extra: &[Algorithm]) -> Digester {
        match self {
            Self::Md5 => Digester::new(extra),
            Self::Crc64 => Digester::without_md5(extra),
        }
    }

    /// The ETag of a body; one whose MD5 nobody computed has the other kind.
    pub(crate) fn of_body(self, digests: &Digests) -> ETag {
        match (self, digests.md5) {
            (Self::Md5, Some(md5)) => ETag::Md5(md5),
            _ => ETag::opaque(digests.crc64),
        }
    }
}

/// Which ETags objects get: those of all buckets, and of some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ETagKinds {
    /// Where nothing is said of the bucket.
    pub usual: ETagKind,
    /// What is said of single buckets.
    pub of_bucket: BTreeMap<BucketName, ETagKind>,
}

impl ETagKinds {
    /// The kind of one bucket.
    pub(crate) fn of(&self, bucket: &BucketName) -> ETagKind {
        self.of_bucket.get(bucket).copied().unwrap_or(self.usual)
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, parts) = self.shown();
        // Every answer and every entry of a listing has one: one digit after the other costs a microsecond.
        f.write_str(str::from_utf8(&hex(&bytes)).map_err(|_| fmt::Error)?)?;
        parts.map_or(Ok(()), |parts| write!(f, "-{parts}"))
    }
}

fn hex(bytes: &[u8; 16]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

/// What `If-Match` or `If-None-Match` names: entity tags without quotes, or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ETagList {
    /// `*`: whatever is there.
    Any,
    /// These, as the client wrote them, without quotes and `W/`.
    Tags(Vec<String>),
}

/// The format byte of a derived ETag, and of one that is salted.
const DERIVED: u8 = 1;
const IN_FLUX: u8 = 2;

/// What a derived ETag is made of: everything that fstat shows of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Derivation {
    /// The inode number; 0 where the filesystem's are unstable.
    pub(crate) inode: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// mtime in nanoseconds.
    pub(crate) modified: Timestamp,
    /// ctime in nanoseconds.
    pub(crate) changed: Timestamp,
}

impl Derivation {
    /// The ETag of a file nobody PUT: stable while nothing happens to the file.
    ///
    /// The hash is one block of MD5: it need not resist an adversary (who could simply set another
    /// content), only mix 264 bits into 128.
    pub(crate) fn etag(&self) -> ETag {
        self.hash(DERIVED, None)
    }

    /// The ETag of a file that somebody has open for writing: never one that it has when it is closed, nor
    /// under another open.
    pub(crate) fn in_flux(&self, open: FluxNumber) -> ETag {
        self.hash(IN_FLUX, Some(open.0))
    }

    fn hash(&self, format: u8, salt: Option<u64>) -> ETag {
        let fields = [
            self.inode,
            self.size,
            self.modified.0 as u64,
            self.changed.0 as u64,
        ];
        let mut bytes = [0; 1 + 5 * 8];
        bytes[0] = format;
        let mut length = 1;
        for field in fields.into_iter().chain(salt) {
            bytes[length..length + 8].copy_from_slice(&field.to_le_bytes());
            length += 8;
        }
        let mut hash = Md5::default();
        hash.update(&bytes[..length]);
        let hash = u128::from_be_bytes(hash.finish());
        ETag::Derived((hash >> 64) as u64, hash as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Derivation {
        Derivation {
            inode: 1234,
            size: 5,
            modified: Timestamp(-7),
            changed: Timestamp(1_700_000_000_123_456_789),
        }
    }

    #[test]
    fn derived_etag_is_what_version_1_always_gave() {
        assert_eq!(example().etag().to_string(), GOLDEN);
    }

    const GOLDEN: &str = "3d2e2730569f1a6427b435bf2ff9529f-1";

    #[test]
    fn derived_etag_changes_with_every_field() {
        let base = example();
        let others = [
            Derivation {
                inode: 1235,
                ..base
            },
            Derivation { size: 6, ..base },
            Derivation {
                modified: Timestamp(-8),
                ..base
            },
            Derivation {
                changed: Timestamp(1_700_000_000_123_456_790),
                ..base
            },
        ];
        for other in others {
            assert_ne!(base.etag(), other.etag());
        }
    }

    #[test]
    fn an_open_for_writing_salts_the_etag() {
        let base = example();
        let (one, other) = (base.in_flux(FluxNumber(1)), base.in_flux(FluxNumber(2)));
        assert!(one != other && one != base.etag() && other != base.etag());
        assert_eq!(one, base.in_flux(FluxNumber(1)), "stable while it is open");
        assert!(one.to_string().ends_with("-1"));
    }

    #[test]
    fn an_opaque_etag_begins_with_the_crc_and_is_never_the_same() {
        let (one, other) = (ETag::opaque(0xab), ETag::opaque(0xab));
        assert_ne!(one, other);
        for etag in [one, other] {
            let text = etag.to_string();
            assert!(text.starts_with("00000000000000ab"), "{text}");
            assert_eq!((text.len(), &text[32..]), (34, "-1"));
        }
    }

    #[test]
    fn what_is_said_of_a_bucket_wins() {
        let name = |name| BucketName::parse(name).expect("a name");
        let kinds = ETagKinds {
            usual: ETagKind::Crc64,
            of_bucket: [(name("a"), ETagKind::Md5)].into(),
        };
        assert_eq!(kinds.of(&name("a")), ETagKind::Md5);
        assert_eq!(kinds.of(&name("b")), ETagKind::Crc64);
        assert_eq!(ETagKinds::default().of(&name("b")), ETagKind::Md5);
    }

    #[test]
    fn etags_display_as_s3_shows_them() {
        let md5 = [0xab; 16];
        assert_eq!(ETag::Md5(md5).to_string(), "ab".repeat(16));
        assert_eq!(
            ETag::Multipart(md5, 10_000).to_string(),
            format!("{}-10000", "ab".repeat(16))
        );
        assert_eq!(
            ETag::Derived(1, 2).to_string(),
            "00000000000000010000000000000002-1"
        );
        assert_eq!(
            ETag::Opaque(md5).to_string(),
            format!("{}-1", "ab".repeat(16))
        );
    }
}
