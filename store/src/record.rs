//! The content half of the record: 64 bytes in `user.twintree` and optional fields after them.
//!
//! This file is the codec; it makes no system call. `stamp.rs` judges whether a record still speaks
//! of its file, `disk.rs` reads and writes it, `describe.rs` makes an [`crate::ObjectInfo`] of it.
//! All integers are little endian. A record of an unknown version is never read as one of ours, and
//! optional fields that we do not know are kept.

pub(crate) mod describe;
pub(crate) mod disk;
pub(crate) mod memory;
mod parts;
pub(crate) mod stamp;

use crate::{Algorithm, Checksum, ChecksumType, ETag, ObjectChecksum, PartInfo, Timestamp};

pub(crate) use describe::Xattrs;
pub(crate) use describe::{
    Examined, describe, describe_directory, describe_locked, examine, inform, judge, settle,
};
pub(crate) use stamp::{FileState, Judge, Stamp, Verdict};

/// The xattr of the content half.
pub(crate) const RECORD_XATTR: &str = "user.twintree";
/// The xattr of the object half, see [`crate::Meta`].
pub(crate) const META_XATTR: &str = "user.twintree.meta";
/// The bytes that every record has: what fits into the inode of ext4.
pub(crate) const FIXED: usize = 64;

const VERSION: u8 = 1;

const UNSYNCED: u8 = 1;
const MULTIPART: u8 = 1 << 1;
const OPAQUE: u8 = 1 << 2;
const META: u8 = 1 << 3;
const SEALED: u8 = 1 << 4;
const DROPPED: u8 = 1 << 5;
/// The bytes of `replaced` hold the boot.
const BOOT: u8 = 1 << 6;

/// Kinds of optional fields. 6 and 7 hold the SHA-256 that names a file in `.twintree/records/`.
pub(crate) mod kind {
    pub(crate) const LONG_CHECKSUM: u8 = 2;
    pub(crate) const PARTS: u8 = 3;
    pub(crate) const UPLOAD_ID: u8 = 4;
    pub(crate) const BOOT_ID: u8 = 5;
    /// Where the fields lie that did not fit.
    pub(crate) const OVERFLOW: u8 = 6;
    /// Where the meta JSON lies that did not fit.
    pub(crate) const META_OVERFLOW: u8 = 7;
}

/// The first half of a boot's id: enough to tell it from any other, and small enough for the inode.
pub(crate) type BootMark = [u8; 8];

/// An optional field: its kind and its value. A value over 65,535 bytes is several fields in a row.
pub(crate) type Field = (u8, Vec<u8>);

/// What is recorded of a file's content, and when it was true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// [`ETag::Md5`], [`ETag::Multipart`] or [`ETag::Opaque`].
    pub(crate) etag: ETag,
    /// CRC64NVME of the whole object.
    pub(crate) crc64: u64,
    /// A CRC32 or CRC32C of the whole object.
    pub(crate) short: Option<(Algorithm, u32)>,
    /// Content-Type code: 0 see meta, 1 none was sent, 2.. [`crate::content_type`].
    pub(crate) type_code: u8,
    /// What fstat has to show for the record to be true.
    pub(crate) stamp: Stamp,
    /// First half of the derived ETag that this record replaced.
    pub(crate) replaced: Option<u64>,
    /// Is there something in `user.twintree.meta`?
    pub(crate) has_meta: bool,
    /// Made by sealing: nobody PUT the file.
    pub(crate) sealed: bool,
    /// Nothing is known of the content: the mount changed it. The object half holds.
    pub(crate) dropped: bool,
    /// Written without sync.
    pub(crate) unsynced: bool,
    /// The boot that an unsynced record was written in.
    pub(crate) boot: Option<BootMark>,
    /// Optional fields, known and unknown, in the order of the file.
    pub(crate) fields: Vec<Field>,
}

/// Why bytes are no record that we can read: all of it leaves the file *unverified*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// Fewer bytes than every record has, or a field that runs over the end.
    #[error("the record is cut short")]
    Short,
    /// A version that a later twintree wrote.
    #[error("the record has version {0}")]
    Version(u8),
}

impl Record {
    /// A record of these bytes without anything optional.
    pub(crate) fn new(etag: ETag, crc64: u64, stamp: Stamp) -> Self {
        Self {
            etag,
            crc64,
            short: None,
            type_code: 0,
            stamp,
            replaced: None,
            has_meta: false,
            sealed: false,
            dropped: false,
            unsynced: false,
            boot: None,
            fields: Vec::new(),
        }
    }

    /// One that says nothing of the content, under a stamp that no file has: for an object half that needs a record.
    pub(crate) fn of_no_content() -> Self {
        let nowhen = Timestamp(i64::MIN);
        let stamp = Stamp {
            size: 0,
            modified: nowhen,
            seal: nowhen,
        };
        Self {
            dropped: true,
            ..Self::new(ETag::Md5([0; 16]), 0, stamp)
        }
    }

    /// What is left when the content was changed: the object half.
    pub(crate) fn without_content(&self) -> Self {
        let of_content = [
            kind::LONG_CHECKSUM,
            kind::PARTS,
            kind::UPLOAD_ID,
            kind::OVERFLOW,
        ];
        let fields = self.fields.iter().filter(|(k, _)| !of_content.contains(k));
        Self {
            type_code: self.type_code,
            has_meta: self.has_meta,
            sealed: self.sealed,
            fields: fields.cloned().collect(),
            ..Self::of_no_content()
        }
    }

    /// The bytes as they lie in the xattr.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (etag, shape, count) = match self.etag {
            ETag::Md5(md5) => (md5, 0, 0),
            ETag::Multipart(md5, count) => (md5, MULTIPART, count),
            ETag::Opaque(bytes) => (bytes, OPAQUE, 0),
            // A derived ETag is never recorded: it says that there is no record.
            ETag::Derived(..) => unreachable!("no caller records a derived ETag"),
        };
        // Both in few records: one that is sealed is synced.
        let in_place = self.boot.filter(|_| self.replaced.is_none());
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = shape
            | flag(self.unsynced, UNSYNCED)
            | flag(in_place.is_some(), BOOT)
            | flag(self.has_meta, META)
            | flag(self.sealed, SEALED)
            | flag(self.dropped, DROPPED);
        let (short_kind, short) = match self.short {
            Some((Algorithm::Crc32, crc)) => (1, crc),
            Some((Algorithm::Crc32c, crc)) => (2, crc),
            _ => (0, 0),
        };
        let mut bytes = Vec::with_capacity(FIXED + self.fields.len() * 32);
        bytes.extend([VERSION, flags]);
        bytes.extend(count.to_le_bytes());
        bytes.extend([self.type_code, short_kind]);
        bytes.extend(short.to_le_bytes());
        bytes.extend(etag);
        bytes.extend(self.crc64.to_le_bytes());
        bytes.extend(&self.stamp.size.to_le_bytes()[..6]);
        bytes.extend(self.stamp.modified.0.to_le_bytes());
        bytes.extend(self.stamp.seal.0.to_le_bytes());
        bytes.extend(in_place.unwrap_or_else(|| self.replaced.unwrap_or(0).to_le_bytes()));
        bytes.extend(encode_fields(&self.fields));
        if let Some(boot) = self.boot.filter(|_| in_place.is_none()) {
            bytes.extend(encode_fields(&[(kind::BOOT_ID, boot.to_vec())]));
        }
        bytes
    }

    /// Reads the bytes of an xattr.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(Unreadable::Version(other)),
            None => return Err(Unreadable::Short),
        }
        let (fixed, rest) = bytes
            .split_first_chunk::<FIXED>()
            .ok_or(Unreadable::Short)?;
        let flags = fixed[1];
        let count = u16::from_le_bytes([fixed[2], fixed[3]]);
        let etag: [u8; 16] = array(&fixed[10..26]);
        let mut size = [0; 8];
        size[..6].copy_from_slice(&fixed[34..40]);
        let short = u32::from_le_bytes(array(&fixed[6..10]));
        let last: [u8; 8] = array(&fixed[56..64]);
        let replaced = u64::from_le_bytes(last);
        let mut fields = decode_fields(rest)?;
        let boot = if flags & BOOT != 0 {
            Some(last)
        } else {
            // As a field it may be the whole id, as all records had it before there was the short form.
            let of_boot = |(kind, id): &Field| *kind == kind::BOOT_ID && id.len() >= 8;
            let found = fields.iter().rposition(of_boot);
            found.map(|at| array(&fields.remove(at).1[..8]))
        };
        Ok(Self {
            etag: match flags & (MULTIPART | OPAQUE) {
                0 => ETag::Md5(etag),
                MULTIPART => ETag::Multipart(etag, count),
                _ => ETag::Opaque(etag),
            },
            crc64: u64::from_le_bytes(array(&fixed[26..34])),
            short: match fixed[5] {
                1 => Some((Algorithm::Crc32, short)),
                2 => Some((Algorithm::Crc32c, short)),
                _ => None,
            },
            type_code: fixed[4],
            stamp: Stamp {
                size: u64::from_le_bytes(size),
                modified: Timestamp(i64::from_le_bytes(array(&fixed[40..48]))),
                seal: Timestamp(i64::from_le_bytes(array(&fixed[48..56]))),
            },
            replaced: (flags & BOOT == 0 && replaced != 0).then_some(replaced),
            has_meta: flags & META != 0,
            sealed: flags & SEALED != 0,
            dropped: flags & DROPPED != 0,
            unsynced: flags & UNSYNCED != 0,
            boot,
            fields,
        })
    }

    /// Do both speak of the same content? When they were sealed may differ.
    pub(crate) fn is_of_same_content(&self, other: &Self) -> bool {
        let of = |record: &Self| {
            (
                record.etag,
                record.crc64,
                record.stamp.size,
                record.stamp.modified,
            )
        };
        of(self) == of(other)
    }

    /// The checksum that the object answers with: the one that a client named, else CRC64NVME.
    pub(crate) fn checksum(&self) -> ObjectChecksum {
        if let Some((algorithm, crc)) = self.short {
            let value = crc.to_be_bytes().to_vec();
            return full(Checksum { algorithm, value });
        }
        self.field(kind::LONG_CHECKSUM)
            .and_then(decode_checksum)
            .unwrap_or_else(|| full(Checksum::crc64(self.crc64)))
    }

    /// Keeps a checksum that a client named; `None` keeps CRC64NVME alone.
    pub(crate) fn set_checksum(&mut self, checksum: Option<&ObjectChecksum>) {
        self.short = None;
        self.drop_field(kind::LONG_CHECKSUM);
        let Some(ObjectChecksum { checksum, kind }) = checksum else {
            return;
        };
        let whole = *kind == ChecksumType::FullObject;
        match (checksum.algorithm, <[u8; 4]>::try_from(&checksum.value[..])) {
            (Algorithm::Crc64Nvme, _) => {}
            (algorithm @ (Algorithm::Crc32 | Algorithm::Crc32c), Ok(crc)) if whole => {
                self.short = Some((algorithm, u32::from_be_bytes(crc)));
            }
            (algorithm, _) => {
                let mut value = vec![algorithm.code(), u8::from(!whole)];
                value.extend(&checksum.value);
                self.fields.push((kind::LONG_CHECKSUM, value));
            }
        }
    }

    /// The parts of a multipart object; empty where none are recorded (or they lie in an overflow
    /// that was not read).
    pub(crate) fn parts(&self) -> Vec<PartInfo> {
        let value: Vec<u8> = self
            .fields
            .iter()
            .filter(|(kind, _)| *kind == kind::PARTS)
            .flat_map(|(_, value)| value.iter().copied())
            .collect();
        parts::decode(&value).unwrap_or_default()
    }

    /// Records the parts of a multipart object.
    pub(crate) fn set_parts(&mut self, parts: &[PartInfo]) {
        self.drop_field(kind::PARTS);
        if !parts.is_empty() {
            let value = parts::encode(parts);
            let pieces = value.chunks(usize::from(u16::MAX));
            self.fields
                .extend(pieces.map(|piece| (kind::PARTS, piece.to_vec())));
        }
    }

    /// The upload that made the object.
    pub(crate) fn upload_id(&self) -> Option<String> {
        String::from_utf8(self.field(kind::UPLOAD_ID)?.to_vec()).ok()
    }

    /// Records the upload that made the object.
    pub(crate) fn set_upload_id(&mut self, id: &str) {
        self.set_field(kind::UPLOAD_ID, id.as_bytes().to_vec());
    }

    /// Says that the record (and its data) was synced, or in which boot it was written without.
    pub(crate) fn set_unsynced(&mut self, boot: Option<BootMark>) {
        self.unsynced = boot.is_some();
        self.boot = boot;
    }

    /// The first field of a kind.
    pub(crate) fn field(&self, kind: u8) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|(k, _)| *k == kind)
            .map(|(_, value)| &value[..])
    }

    /// Puts a field in the place of all of its kind.
    pub(crate) fn set_field(&mut self, kind: u8, value: Vec<u8>) {
        self.drop_field(kind);
        self.fields.push((kind, value));
    }

    /// Takes all fields of a kind away.
    pub(crate) fn drop_field(&mut self, kind: u8) {
        self.fields.retain(|(k, _)| *k != kind);
    }
}

/// Optional fields as they lie after the fixed bytes, and in an overflow file.
pub(crate) fn encode_fields(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in fields {
        let length =
            u16::try_from(value.len()).expect("long values are cut before they become fields");
        bytes.push(*kind);
        bytes.extend(length.to_le_bytes());
        bytes.extend(value);
    }
    bytes
}

/// Reads optional fields.
pub(crate) fn decode_fields(mut bytes: &[u8]) -> Result<Vec<Field>, Unreadable> {
    let mut fields = Vec::new();
    while let Some(([kind, low, high], rest)) = bytes.split_first_chunk::<3>() {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let value = rest.get(..length).ok_or(Unreadable::Short)?;
        fields.push((*kind, value.to_vec()));
        bytes = &rest[length..];
    }
    if bytes.is_empty() {
        Ok(fields)
    } else {
        Err(Unreadable::Short)
    }
}

fn decode_checksum(value: &[u8]) -> Option<ObjectChecksum> {
    let ([algorithm, composite], value) = value.split_first_chunk::<2>()?;
    let algorithm = Algorithm::from_code(*algorithm)?;
    if value.len() != algorithm.value_len() {
        return None;
    }
    let checksum = Checksum {
        algorithm,
        value: value.to_vec(),
    };
    let kind = if *composite == 0 {
        ChecksumType::FullObject
    } else {
        ChecksumType::Composite
    };
    Some(ObjectChecksum { checksum, kind })
}

fn full(checksum: Checksum) -> ObjectChecksum {
    ObjectChecksum {
        checksum,
        kind: ChecksumType::FullObject,
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the caller slices exactly N bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Record {
        let stamp = Stamp {
            size: 0x0605_0403_0201,
            modified: Timestamp(0x1817_1615_1413_1211),
            seal: Timestamp(0x2827_2625_2423_2221),
        };
        Record {
            short: Some((Algorithm::Crc32c, 0xddcc_bbaa)),
            type_code: 7,
            replaced: Some(0x3837_3635_3433_3231),
            has_meta: true,
            ..Record::new(
                ETag::Md5(*b"0123456789abcdef"),
                0x4847_4645_4443_4241,
                stamp,
            )
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn plain_record_is_the_64_bytes_that_version_1_always_wrote() {
        let golden = "01080000\
                      0702\
                      aabbccdd\
                      30313233343536373839616263646566\
                      4142434445464748\
                      010203040506\
                      1112131415161718\
                      2122232425262728\
                      3132333435363738";
        assert_eq!(hex(&example().encode()), golden);
        assert_eq!(Record::decode(&example().encode()), Ok(example()));
    }

    #[test]
    fn optional_fields_are_what_version_1_always_wrote() {
        let mut record = Record {
            etag: ETag::Multipart([0xee; 16], 3),
            replaced: None,
            ..example()
        };
        let sha1 = Checksum {
            algorithm: Algorithm::Sha1,
            value: vec![0x51; 20],
        };
        record.set_checksum(Some(&ObjectChecksum {
            checksum: sha1,
            kind: ChecksumType::Composite,
        }));
        record.set_parts(&[
            PartInfo {
                number: 1,
                size: 5 << 20,
                checksum: None,
            },
            PartInfo {
                number: 2,
                size: 5 << 20,
                checksum: None,
            },
            PartInfo {
                number: 9,
                size: 77,
                checksum: None,
            },
        ]);
        record.set_upload_id("up");
        record.fields.push((200, vec![1, 2]));
        let bytes = record.encode();
        assert_eq!(bytes[..6], [1, 0b1010, 3, 0, 7, 0]);
        let golden = format!(
            "021600{}{}031700{}{}{}0402007570c802000102",
            "0401",
            "51".repeat(20),
            "000300",
            "01000200000050000000",
            "090001004d0000000000",
        );
        assert_eq!(hex(&bytes[FIXED..]), golden);
        assert_eq!(Record::decode(&bytes), Ok(record));
    }

    #[test]
    fn boot_of_an_unsynced_record_takes_no_room_of_its_own() {
        let mut record = example();
        record.replaced = None;
        record.set_unsynced(Some(*b"bootmark"));
        let bytes = record.encode();
        assert_eq!((bytes.len(), bytes[1]), (FIXED, 0b100_1001));
        assert_eq!(&bytes[56..], b"bootmark");
        assert_eq!(Record::decode(&bytes), Ok(record));
    }

    #[test]
    fn boot_beside_a_replaced_etag_is_a_field() {
        let mut record = example();
        record.set_unsynced(Some(*b"bootmark"));
        let bytes = record.encode();
        assert_eq!(bytes[1], 0b1001);
        assert_eq!(bytes[FIXED..], *b"\x05\x08\x00bootmark");
        assert_eq!(Record::decode(&bytes), Ok(record));
    }

    #[test]
    fn whole_boot_id_of_older_records_is_read() {
        let mut bytes = example().encode();
        bytes[1] |= UNSYNCED;
        bytes.extend(b"\x05\x10\x00bootmarkand more");
        let record = Record::decode(&bytes).expect("a record");
        assert!(record.unsynced);
        assert_eq!(record.boot, Some(*b"bootmark"));
        assert_eq!(
            (record.replaced, record.fields),
            (example().replaced, vec![])
        );
    }

    #[test]
    fn unknown_version_is_not_read_as_ours() {
        let mut bytes = example().encode();
        bytes[0] = 2;
        assert_eq!(Record::decode(&bytes), Err(Unreadable::Version(2)));
        assert_eq!(Record::decode(&bytes[..0]), Err(Unreadable::Short));
    }

    #[test]
    fn record_cut_anywhere_is_refused() {
        let mut record = example();
        record.set_upload_id("an-upload");
        let bytes = record.encode();
        for end in (1..bytes.len()).filter(|end| *end != FIXED) {
            assert_eq!(
                Record::decode(&bytes[..end]),
                Err(Unreadable::Short),
                "{end} bytes"
            );
        }
    }

    #[test]
    fn every_checksum_comes_back_as_it_was_kept() {
        for algorithm in Algorithm::ALL {
            for kind in [ChecksumType::FullObject, ChecksumType::Composite] {
                if algorithm == Algorithm::Crc64Nvme && kind == ChecksumType::Composite {
                    continue; // S3 has no such checksum.
                }
                let mut record = example();
                let value = record
                    .crc64
                    .to_be_bytes()
                    .into_iter()
                    .cycle()
                    .take(algorithm.value_len())
                    .collect();
                let kept = ObjectChecksum {
                    checksum: Checksum { algorithm, value },
                    kind,
                };
                record.set_checksum(Some(&kept));
                let back = Record::decode(&record.encode()).expect("it was just encoded");
                assert_eq!(back.checksum(), kept);
            }
        }
    }

    #[test]
    fn ten_thousand_parts_with_checksums_come_back() {
        let part = |number: u16| PartInfo {
            number,
            size: u64::from(number) << 24,
            checksum: Some(Checksum {
                algorithm: Algorithm::Sha256,
                value: vec![number as u8; 32],
            }),
        };
        let parts: Vec<PartInfo> = (1..=10_000).map(part).collect();
        let mut record = example();
        record.set_parts(&parts);
        let back = Record::decode(&record.encode()).expect("it was just encoded");
        assert_eq!(back.parts(), parts);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_but_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = VERSION; }
            if let Ok(record) = Record::decode(&bytes) {
                record.parts();
                record.checksum();
            }
        }
    }
}
