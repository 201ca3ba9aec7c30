//! Checksums of bodies: which there are, how they are computed while a body streams by, and how
//! CRCs of parts combine. Header names stay in the gateway.

use crc_fast::CrcAlgorithm;

use crate::hash::Md5;

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

impl Algorithm {
    /// All of them, in the order of their codes on disk.
    pub const ALL: [Self; 5] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64Nvme,
        Self::Sha1,
        Self::Sha256,
    ];

    /// The length of a value in bytes.
    pub fn value_len(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Can the checksums of parts be combined into that of the whole?
    pub fn is_crc(self) -> bool {
        self.crc().is_some()
    }

    /// The number that stands for it on disk; append-only, 0 is "none".
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Crc32 => 1,
            Self::Crc32c => 2,
            Self::Crc64Nvme => 3,
            Self::Sha1 => 4,
            Self::Sha256 => 5,
        }
    }

    /// The algorithm that a number on disk stands for.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.code() == code)
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }
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

/// CRC64NVME of a body, always, mostly its MD5, and what else was asked for, in one pass.
pub struct Digester {
    length: u64,
    md5: Option<Md5>,
    crc64: crc_fast::Digest,
    extra: Vec<(Algorithm, Running)>,
}

/// An extra checksum under way.
enum Running {
    Crc(crc_fast::Digest),
    Sha(ring::digest::Context),
    /// CRC64NVME: computed anyway.
    Shared,
}

/// What a [`Digester`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Bytes seen.
    pub length: u64,
    /// Their MD5, unless it was left out.
    pub md5: Option<[u8; 16]>,
    /// Their CRC64NVME.
    pub crc64: u64,
    /// The other algorithms asked for, in that order.
    pub extra: Vec<Checksum>,
}

impl Digester {
    /// Starts with no bytes; `extra` may repeat or name CRC64NVME.
    pub fn new(extra: &[Algorithm]) -> Self {
        let start = |algorithm: &Algorithm| {
            let running = match algorithm {
                Algorithm::Crc64Nvme => Running::Shared,
                Algorithm::Crc32 => Running::Crc(crc_fast::Digest::new(CrcAlgorithm::Crc32IsoHdlc)),
                Algorithm::Crc32c => Running::Crc(crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi)),
                Algorithm::Sha1 => Running::Sha(ring::digest::Context::new(
                    &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
                )),
                Algorithm::Sha256 => {
                    Running::Sha(ring::digest::Context::new(&ring::digest::SHA256))
                }
            };
            (*algorithm, running)
        };
        Self {
            length: 0,
            md5: Some(Md5::default()),
            crc64: crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme),
            extra: extra.iter().map(start).collect(),
        }
    }

    /// Starts with no bytes, and leaves the MD5 out.
    pub fn without_md5(extra: &[Algorithm]) -> Self {
        Self {
            md5: None,
            ..Self::new(extra)
        }
    }

    /// Bytes taken so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.update_beside_md5(bytes);
    }

    /// Takes the next bytes, but for the MD5: somebody else computes it and says so by [`Digester::set_md5`].
    pub fn update_beside_md5(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.crc64.update(bytes);
        for (_, running) in &mut self.extra {
            match running {
                Running::Crc(digest) => digest.update(bytes),
                Running::Sha(context) => context.update(bytes),
                Running::Shared => {}
            }
        }
    }

    /// Sets the MD5 of what was taken beside it.
    pub fn set_md5(&mut self, md5: Md5) {
        self.md5 = Some(md5);
    }

    /// Ends.
    pub fn finish(self) -> Digests {
        let crc64 = self.crc64.finalize();
        let end = |(algorithm, running): (Algorithm, Running)| {
            let value = match running {
                Running::Crc(digest) => crc_bytes(algorithm, digest.finalize()),
                Running::Sha(context) => context.finish().as_ref().to_vec(),
                Running::Shared => crc_bytes(algorithm, crc64),
            };
            Checksum { algorithm, value }
        };
        Digests {
            length: self.length,
            md5: self.md5.map(Md5::finish),
            crc64,
            extra: self.extra.into_iter().map(end).collect(),
        }
    }
}

impl Digests {
    /// The value of one algorithm, if it was computed.
    pub fn checksum(&self, algorithm: Algorithm) -> Option<Checksum> {
        if algorithm == Algorithm::Crc64Nvme {
            return Some(Checksum::crc64(self.crc64));
        }
        self.extra
            .iter()
            .find(|checksum| checksum.algorithm == algorithm)
            .cloned()
    }
}

impl Checksum {
    /// A CRC64NVME as a checksum.
    pub fn crc64(crc: u64) -> Self {
        Self {
            algorithm: Algorithm::Crc64Nvme,
            value: crc.to_be_bytes().to_vec(),
        }
    }

    /// The CRC as a number; `None` for a hash, and where the length is wrong.
    fn as_crc(&self) -> Option<u64> {
        if !self.algorithm.is_crc() || self.value.len() != self.algorithm.value_len() {
            return None;
        }
        Some(
            self.value
                .iter()
                .fold(0, |crc, byte| crc << 8 | u64::from(*byte)),
        )
    }
}

/// Combines the CRCs of consecutive pieces, each with its length in bytes, into that of the whole.
/// `None`: the algorithm is no CRC, or a piece has another one. No pieces: the CRC of nothing.
pub fn combine_crcs(algorithm: Algorithm, pieces: &[(Checksum, u64)]) -> Option<Checksum> {
    let field = Field::of(algorithm)?;
    let mut whole = 0; // of nothing: initial value and final inversion cancel out
    let mut shift = (0, field.one());
    for (piece, length) in pieces {
        if piece.algorithm != algorithm {
            return None;
        }
        if shift.0 != *length {
            shift = (*length, field.power_of_x(8, *length)); // parts mostly have one length
        }
        whole = field.multiply(shift.1, whole) ^ piece.as_crc()?;
    }
    Some(Checksum {
        algorithm,
        value: crc_bytes(algorithm, whole),
    })
}

/// Polynomials over GF(2) modulo that of a CRC, the coefficient of x^0 in the highest bit: appending n
/// zero bytes to what was summed multiplies the CRC by x^(8n) (zlib's `crc32_combine` does so).
///
/// Written here because crc-fast takes 100 us to combine two values, and an upload has up to 10,000.
struct Field {
    polynomial: u64,
    bits: u32,
}

impl Field {
    fn of(algorithm: Algorithm) -> Option<Self> {
        let (polynomial, bits) = match algorithm {
            Algorithm::Crc32 => (0xedb8_8320, 32),
            Algorithm::Crc32c => (0x82f6_3b78, 32),
            Algorithm::Crc64Nvme => (0x9a6c_9329_ac4b_c9b5, 64),
            Algorithm::Sha1 | Algorithm::Sha256 => return None,
        };
        Some(Self { polynomial, bits })
    }

    fn one(&self) -> u64 {
        1 << (self.bits - 1)
    }

    fn times_x(&self, a: u64) -> u64 {
        if a & 1 == 1 {
            (a >> 1) ^ self.polynomial
        } else {
            a >> 1
        }
    }

    fn multiply(&self, a: u64, mut b: u64) -> u64 {
        let mut product = 0;
        for bit in (0..self.bits).rev() {
            if a >> bit & 1 == 1 {
                product ^= b;
            }
            b = self.times_x(b);
        }
        product
    }

    /// x to the power `unit * times`; `unit` is a power of two.
    fn power_of_x(&self, unit: u32, mut times: u64) -> u64 {
        let mut square = self.times_x(self.one());
        for _ in 0..unit.trailing_zeros() {
            square = self.multiply(square, square);
        }
        let mut power = self.one();
        while times > 0 {
            if times & 1 == 1 {
                power = self.multiply(power, square);
            }
            square = self.multiply(square, square);
            times >>= 1;
        }
        power
    }
}

fn crc_bytes(algorithm: Algorithm, crc: u64) -> Vec<u8> {
    crc.to_be_bytes()[8 - algorithm.value_len()..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn known_answers_of_every_algorithm() {
        let mut digester = Digester::new(&Algorithm::ALL);
        digester.update(b"1234");
        digester.update(b"56789");
        let digests = digester.finish();
        assert_eq!(digests.length, 9);
        let md5 = digests.md5.expect("not left out");
        assert_eq!(hex(&md5), "25f9e794323b453885f5181f1b624d0b");
        assert_eq!(digests.crc64, 0xae8b_1486_0a79_9888);
        let found: Vec<String> = digests
            .extra
            .iter()
            .map(|checksum| hex(&checksum.value))
            .collect();
        assert_eq!(
            found,
            [
                "cbf43926",
                "e3069283",
                "ae8b14860a799888",
                "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ]
        );
    }

    #[test]
    fn crcs_of_pieces_combine_to_that_of_the_whole() {
        let body: Vec<u8> = (0..70_001_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let of = |bytes: &[u8]| {
                let mut digester = Digester::new(&[algorithm]);
                digester.update(bytes);
                digester
                    .finish()
                    .checksum(algorithm)
                    .expect("it was asked for")
            };
            let pieces: Vec<(Checksum, u64)> = [
                &body[..1],
                &body[1..40_000],
                &body[40_000..40_000],
                &body[40_000..],
            ]
            .iter()
            .map(|piece| (of(piece), piece.len() as u64))
            .collect();
            assert_eq!(combine_crcs(algorithm, &pieces), Some(of(&body)));
            assert_eq!(combine_crcs(algorithm, &[]), Some(of(b"")));
        }
    }

    #[test]
    fn combining_agrees_with_another_implementation_at_any_length() {
        let mut state = 7_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.rotate_left(29)
        };
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let mask = u64::MAX >> (64 - 8 * algorithm.value_len());
            for length in [0, 1, 7, 8, 4096, 5 << 20, (5 << 30) - 1, 48 << 40] {
                let (first, second) = (next() & mask, next() & mask);
                let crc = algorithm.crc().expect("a CRC");
                let expected = crc_fast::checksum_combine(crc, first, second, length);
                let sum = |crc| Checksum {
                    algorithm,
                    value: crc_bytes(algorithm, crc),
                };
                let pieces = [(sum(first), 9), (sum(second), length)];
                assert_eq!(
                    combine_crcs(algorithm, &pieces),
                    Some(sum(expected)),
                    "{algorithm:?} {length}"
                );
            }
        }
    }

    #[test]
    fn hashes_do_not_combine() {
        assert_eq!(combine_crcs(Algorithm::Sha256, &[]), None);
        assert_eq!(
            combine_crcs(Algorithm::Crc32, &[(Checksum::crc64(1), 1)]),
            None
        );
    }
}
