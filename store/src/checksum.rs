//! Checksums of bodies: which there are, how they are computed while a body streams by, and how
//! CRCs of parts combine.

/// A checksum algorithm of the S3 API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// CRC-32 (ISO-HDLC), 4 bytes.
    Crc32,
    /// CRC-32C (Castagnoli), 4 bytes.
    Crc32c,
    /// CRC-64/NVME, 8 bytes.
    Crc64Nvme,
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
}

/// One value of one algorithm, big endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// Which.
    pub algorithm: Algorithm,
    /// 4, 8, 20 or 32 bytes.
    pub value: Vec<u8>,
}

/// What a checksum of a multipart object covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChecksumType {
    /// All bytes of the object.
    FullObject,
    /// The parts' checksums; shows with `-N`.
    Composite,
}

/// The checksum that an object answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectChecksum {
    /// Algorithm and value.
    pub checksum: Checksum,
    /// What it covers.
    pub kind: ChecksumType,
}

/// MD5 and CRC64NVME of a body, always, and what else was asked for, in one pass.
pub struct Digester {
    length: u64,
}

/// What a [`Digester`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Bytes seen.
    pub length: u64,
    /// Their MD5.
    pub md5: [u8; 16],
    /// Their CRC64NVME.
    pub crc64: u64,
    /// The other algorithms asked for, in that order.
    pub extra: Vec<Checksum>,
}

impl Digester {
    /// Starts with no bytes; `extra` may repeat or name CRC64NVME.
    pub fn new(extra: &[Algorithm]) -> Self {
        let _ = extra; // contract
        unimplemented!()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let _ = bytes; // contract
        unimplemented!()
    }

    /// Ends.
    pub fn finish(self) -> Digests {
        unimplemented!()
    }
}
