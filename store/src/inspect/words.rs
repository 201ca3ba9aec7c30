//! How single values read: dates, checksums, runs of parts, and bytes that a client chose.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::time::civil;
use crate::{Algorithm, Checksum, ChecksumType, ETag, PartInfo, Timestamp};

/// A moment as `2024-02-29 12:34:56.123456789 UTC`.
pub(super) fn date(moment: Timestamp) -> String {
    let day = civil(moment.seconds());
    let second = day.second_of_day;
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:09} UTC",
        day.year,
        day.month,
        day.day,
        second / 3600,
        second / 60 % 60,
        second % 60,
        moment.subsec_nanos()
    )
}

/// An entity tag and what it is made of.
pub(super) fn etag(etag: ETag) -> String {
    let of = match etag {
        ETag::Md5(_) => "the MD5 of the content".to_owned(),
        ETag::Multipart(_, 1) => "the MD5 of the MD5 of one part".to_owned(),
        ETag::Multipart(_, count) => format!("the MD5 of the MD5s of {count} parts"),
        ETag::Derived(..) => "derived from inode, size, mtime and ctime".to_owned(),
        ETag::Opaque(_) => "a CRC64NVME and random bits, no MD5".to_owned(),
    };
    format!("\"{etag}\", {of}")
}

/// A checksum as S3 shows it.
pub(super) fn checksum(checksum: &Checksum) -> String {
    let name = match checksum.algorithm {
        Algorithm::Crc32 => "CRC32",
        Algorithm::Crc32c => "CRC32C",
        Algorithm::Crc64Nvme => "CRC64NVME",
        Algorithm::Sha1 => "SHA1",
        Algorithm::Sha256 => "SHA256",
    };
    format!("{name} {}", STANDARD.encode(&checksum.value))
}

/// What a checksum covers.
pub(super) fn coverage(kind: ChecksumType) -> &'static str {
    match kind {
        ChecksumType::FullObject => "of the full object",
        ChecksumType::Composite => "composite: of the parts' checksums",
    }
}

/// The sizes of parts, those of one size that follow each other as one run.
pub(super) fn sizes(parts: &[PartInfo]) -> String {
    let follows = |a: &PartInfo, b: &PartInfo| {
        a.size == b.size && u32::from(a.number) + 1 == u32::from(b.number)
    };
    let run = |run: &[PartInfo]| match run {
        [one] => format!("{} of {} bytes", one.number, one.size),
        [first, .., last] => format!(
            "{} to {} of {} bytes each",
            first.number, last.number, first.size
        ),
        [] => String::new(),
    };
    let runs: Vec<String> = parts.chunk_by(follows).map(run).collect();
    runs.join(", ")
}

/// Bytes that somebody chose, without what a terminal would obey.
pub(super) fn tame(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}
