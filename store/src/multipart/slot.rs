//! The bytes of an upload's `parts` file: a head and one slot a part, 128 bytes each, little endian.
//!
//! This file knows the layout and nothing of files. A slot holds no claim: who writes a part in place
//! holds a lock on its region of the assembly file, which the kernel releases with the last descriptor,
//! so that a crash leaves nothing to clear.

use crate::{Algorithm, Checksum, Timestamp};

/// Bytes of a slot; slot N lies at N times this.
pub(crate) const SLOT: usize = 128;
/// The greatest part number.
pub const MAX_PART: u16 = 10_000;
const VERSION: u8 = 1;
/// The largest size that a record holds.
const MAX_SIZE: u64 = (1 << 48) - 1;
/// The last offset of a file.
const MAX_END: u64 = i64::MAX as u64;
/// Where the CRC32C of all bytes before it stands.
const CRC_AT: usize = SLOT - 4;

/// Where an upload stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Parts come.
    Open,
    /// A Complete is about to make this file the object, by renaming it away. When the file is gone,
    /// it did.
    Publishing(Base),
    /// The object is visible.
    Published,
    /// Aborted; what arrives now is refused.
    Aborted,
}

/// The head: slot 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Where the upload stands.
    pub state: State,
    /// The size of a usual part in bytes, fixed once; 0: not yet.
    pub stride: u64,
}

/// Where the bytes of a part (or of the object to be) lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// In the assembly file, from this offset.
    Assembly(u64),
    /// In a file of its own, which has this number in its name.
    File(u64),
}

/// The file that becomes the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// The part whose own file it is; 0: the assembly, or a file that parts were gathered in.
    pub number: u16,
    /// Which file.
    pub source: Source,
}

/// One stored part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Where its bytes lie.
    pub source: Source,
    /// How many there are.
    pub size: u64,
    /// Their MD5.
    pub md5: [u8; 16],
    /// Their CRC64NVME.
    pub crc64: u64,
    /// The checksum of the upload's algorithm, or the one the client sent.
    pub checksum: Option<Checksum>,
    /// When the part was stored.
    pub modified: Timestamp,
    /// The boot during which it was written.
    pub boot: [u8; 16],
    /// Was it answered without a sync? After another boot it must be read again before it is believed.
    pub unsynced: bool,
}

/// What a slot's bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decoded<T> {
    /// All zero: never written.
    Empty,
    /// Whole.
    Stored(T),
    /// Torn, of another version or of another place.
    Damaged,
}

impl Head {
    /// The bytes of slot 0.
    pub(crate) fn encode(&self) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        bytes[0] = VERSION;
        let (state, base) = match self.state {
            State::Open => (1, None),
            State::Publishing(base) => (2, Some(base)),
            State::Published => (3, None),
            State::Aborted => (4, None),
        };
        bytes[1] = state;
        if let Some(base) = base {
            put_source(&mut bytes, base.source);
            bytes[4..6].copy_from_slice(&base.number.to_le_bytes());
        }
        bytes[8..16].copy_from_slice(&self.stride.to_le_bytes());
        seal(bytes)
    }

    /// Reads slot 0.
    pub(crate) fn decode(bytes: &[u8; SLOT]) -> Decoded<Self> {
        match checked(bytes) {
            Decoded::Stored(()) => {}
            Decoded::Empty => return Decoded::Empty,
            Decoded::Damaged => return Decoded::Damaged,
        }
        let state = match bytes[1] {
            1 => State::Open,
            2 => match source(bytes) {
                Some(source) => State::Publishing(Base {
                    number: number_in(bytes),
                    source,
                }),
                None => return Decoded::Damaged,
            },
            3 => State::Published,
            4 => State::Aborted,
            _ => return Decoded::Damaged,
        };
        Decoded::Stored(Self {
            state,
            stride: u64_at(bytes, 8),
        })
    }
}

impl Slot {
    /// The bytes of slot `number`.
    pub(crate) fn encode(&self, number: u16) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        bytes[0] = VERSION;
        bytes[1] = u8::from(self.unsynced);
        put_source(&mut bytes, self.source);
        bytes[4..6].copy_from_slice(&number.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.size.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.md5);
        bytes[40..48].copy_from_slice(&self.crc64.to_le_bytes());
        if let Some(checksum) = &self.checksum {
            bytes[3] = checksum.algorithm.code();
            bytes[48..48 + checksum.value.len()].copy_from_slice(&checksum.value);
        }
        bytes[80..88].copy_from_slice(&self.modified.0.to_le_bytes());
        bytes[88..104].copy_from_slice(&self.boot);
        seal(bytes)
    }

    /// Reads slot `number`.
    pub(crate) fn decode(number: u16, bytes: &[u8; SLOT]) -> Decoded<Self> {
        match checked(bytes) {
            Decoded::Stored(()) => {}
            Decoded::Empty => return Decoded::Empty,
            Decoded::Damaged => return Decoded::Damaged,
        }
        let checksum = match bytes[3] {
            0 => None,
            kind => match Algorithm::from_code(kind) {
                Some(algorithm) => Some(Checksum {
                    algorithm,
                    value: bytes[48..48 + algorithm.value_len()].to_vec(),
                }),
                None => return Decoded::Damaged,
            },
        };
        let Some(source) = source(bytes) else {
            return Decoded::Damaged;
        };
        let size = u64_at(bytes, 8);
        let end = match source {
            Source::Assembly(offset) => offset.checked_add(size),
            Source::File(_) => Some(size),
        };
        // A record holds a size in six bytes, a file ends within 63 bits: what claims more we never wrote.
        if number_in(bytes) != number || size > MAX_SIZE || end.is_none_or(|end| end > MAX_END) {
            return Decoded::Damaged;
        }
        Decoded::Stored(Self {
            source,
            size,
            md5: bytes[24..40].try_into().expect("the range has 16 bytes"),
            crc64: u64_at(bytes, 40),
            checksum,
            modified: Timestamp(u64_at(bytes, 80) as i64),
            boot: bytes[88..104].try_into().expect("the range has 16 bytes"),
            unsynced: bytes[1] & 1 != 0,
        })
    }
}

/// Byte 2 says where, bytes 16..24 hold the offset or the file's number.
fn put_source(bytes: &mut [u8; SLOT], source: Source) {
    let (kind, value) = match source {
        Source::Assembly(offset) => (1, offset),
        Source::File(nonce) => (2, nonce),
    };
    bytes[2] = kind;
    bytes[16..24].copy_from_slice(&value.to_le_bytes());
}

fn number_in(bytes: &[u8; SLOT]) -> u16 {
    u16::from_le_bytes([bytes[4], bytes[5]])
}

fn source(bytes: &[u8; SLOT]) -> Option<Source> {
    match bytes[2] {
        1 => Some(Source::Assembly(u64_at(bytes, 16))),
        2 => Some(Source::File(u64_at(bytes, 16))),
        _ => None,
    }
}

fn seal(mut bytes: [u8; SLOT]) -> [u8; SLOT] {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[..CRC_AT]) as u32;
    bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn checked(bytes: &[u8; SLOT]) -> Decoded<()> {
    if *bytes == [0; SLOT] {
        return Decoded::Empty;
    }
    if bytes[0] != VERSION || seal(*bytes) != *bytes {
        return Decoded::Damaged;
    }
    Decoded::Stored(())
}

fn u64_at(bytes: &[u8; SLOT], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("the range has 8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Slot {
        Slot {
            source: Source::Assembly(0x0102_0304_0506_0708),
            size: 0x1314_1516_1718,
            md5: *b"0123456789abcdef",
            crc64: 0x2122_2324_2526_2728,
            checksum: Some(Checksum {
                algorithm: Algorithm::Sha256,
                value: (0x40..0x60).collect(),
            }),
            modified: Timestamp(0x3132_3334_3536_3738),
            boot: *b"ABCDEFGHIJKLMNOP",
            unsynced: true,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn a_slot_has_these_very_bytes() {
        let expected = concat!(
            "01010105",
            "1027",
            "0000",             // version, flags, source, checksum kind, number, unused
            "1817161514130000", // size
            "0807060504030201", // offset
            "30313233343536373839616263646566", // MD5
            "2827262524232221", // CRC64NVME
            "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f", // checksum
            "3837363534333231", // when
            "4142434445464748494a4b4c4d4e4f50", // boot
            "0000000000000000000000000000000000000000", // unused
        );
        let bytes = example().encode(10_000);
        assert_eq!(hex(&bytes[..CRC_AT]), expected);
        assert_eq!(hex(&bytes[CRC_AT..]), GOLDEN_SLOT_CRC);
    }

    #[test]
    fn the_head_has_these_very_bytes() {
        let head = Head {
            state: State::Publishing(Base {
                number: 7,
                source: Source::File(0x0a0b),
            }),
            stride: 0x0050_0000,
        };
        let bytes = head.encode();
        assert_eq!(
            hex(&bytes[..24]),
            "010202000700000000005000000000000b0a000000000000"
        );
        assert!(bytes[24..CRC_AT].iter().all(|b| *b == 0));
        assert_eq!(hex(&bytes[CRC_AT..]), GOLDEN_HEAD_CRC);
        assert_eq!(Head::decode(&bytes), Decoded::Stored(head));
    }

    const GOLDEN_SLOT_CRC: &str = "e97a9004";
    const GOLDEN_HEAD_CRC: &str = "b0358122";

    #[test]
    fn what_is_encoded_is_decoded() {
        for checksum in [
            None,
            Some(Checksum {
                algorithm: Algorithm::Crc32,
                value: vec![1, 2, 3, 4],
            }),
            Some(Checksum {
                algorithm: Algorithm::Crc32c,
                value: vec![1, 2, 3, 4],
            }),
            Some(Checksum {
                algorithm: Algorithm::Crc64Nvme,
                value: vec![9; 8],
            }),
            Some(Checksum {
                algorithm: Algorithm::Sha1,
                value: vec![7; 20],
            }),
            Some(Checksum {
                algorithm: Algorithm::Sha256,
                value: vec![8; 32],
            }),
        ] {
            for source in [Source::Assembly(0), Source::File(u64::MAX)] {
                let slot = Slot {
                    checksum: checksum.clone(),
                    source,
                    ..example()
                };
                assert_eq!(Slot::decode(7, &slot.encode(7)), Decoded::Stored(slot));
            }
        }
    }

    #[test]
    fn what_no_file_can_hold_is_damage() {
        let bad = [
            (Source::File(1), MAX_SIZE + 1),
            (Source::Assembly(MAX_END), 1),
            (Source::Assembly(u64::MAX), 1),
        ];
        for (source, size) in bad {
            let slot = Slot {
                source,
                size,
                ..example()
            };
            assert_eq!(Slot::decode(7, &slot.encode(7)), Decoded::Damaged);
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_damage_and_zeros_are_empty() {
        let bytes = example().encode(3);
        for bit in 0..SLOT * 8 {
            let mut torn = bytes;
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Slot::decode(3, &torn), Decoded::Damaged, "bit {bit}");
        }
        assert_eq!(Slot::decode(4, &bytes), Decoded::Damaged);
        assert_eq!(Slot::decode(3, &[0; SLOT]), Decoded::Empty);
        assert_eq!(Head::decode(&[0; SLOT]), Decoded::Empty);
    }
}
