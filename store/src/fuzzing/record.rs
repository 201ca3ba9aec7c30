//! The record and its optional fields: whatever lies in an xattr is read within bounds or refused, and
//! what we write is what we read.

use super::draw::Draw;
use crate::multipart::MAX_PART;
use crate::record::{FIXED, Field, Record, Stamp, decode_fields, kind};
use crate::{Algorithm, Checksum, ChecksumType, ETag, ObjectChecksum, PartInfo, Timestamp};

/// The largest number that six bytes hold.
const MAX_SIZE: u64 = (1 << 48) - 1;

/// A record that anybody wrote, then one that we write.
pub fn record(data: &[u8]) {
    as_found(data);
    as_written(&mut Draw::new(data));
}

fn as_found(data: &[u8]) {
    let mut bytes = data.to_vec();
    if let Some(version) = bytes.first_mut() {
        *version = 1;
    }
    let Ok(record) = Record::decode(&bytes) else {
        return;
    };
    let again = record.encode();
    assert_eq!(Record::decode(&again), Ok(record.clone()));
    assert!(again.len() <= bytes.len());
    assert_eq!(others(&again), others(&bytes), "optional fields are kept");
    assert!(record.stamp.size <= MAX_SIZE);
    check_parts(&record);
    let checksum = record.checksum().checksum;
    assert_eq!(checksum.value.len(), checksum.algorithm.value_len());
    if let Some(id) = record.upload_id() {
        assert!(id.len() <= usize::from(u16::MAX));
    }
}

/// The optional fields but the boot, which has a place among the fixed bytes too.
fn others(bytes: &[u8]) -> Vec<Field> {
    let fields = decode_fields(&bytes[FIXED..]).expect("they were just read");
    let is_other = |(kind, _): &Field| *kind != kind::BOOT_ID;
    fields.into_iter().filter(is_other).collect()
}

/// Readers add the sizes up and look numbers up: neither may surprise them.
fn check_parts(record: &Record) {
    let parts = record.parts();
    assert!(parts.len() <= usize::from(MAX_PART));
    assert!(
        parts
            .iter()
            .all(|part| (1..=MAX_PART).contains(&part.number))
    );
    assert!(parts.is_sorted_by(|a, b| a.number < b.number));
    assert!(parts.iter().all(|part| part.size <= MAX_SIZE));
    parts
        .iter()
        .try_fold(0u64, |sum, part| sum.checked_add(part.size))
        .expect("the sizes have a sum");
    let again = {
        let mut copy = record.clone();
        copy.set_parts(&parts);
        Record::decode(&copy.encode()).expect("it was just encoded")
    };
    assert_eq!(again.parts(), parts);
}

fn as_written(draw: &mut Draw<'_>) {
    let etag = match draw.below(3) {
        0 => ETag::Md5(draw.array()),
        1 => ETag::Multipart(draw.array(), draw.number() as u16),
        _ => ETag::Opaque(draw.array()),
    };
    let stamp = Stamp {
        size: draw.number() & MAX_SIZE,
        modified: Timestamp(draw.number() as i64),
        seal: Timestamp(draw.number() as i64),
    };
    let mut record = Record::new(etag, draw.number(), stamp);
    record.type_code = draw.byte();
    record.replaced = Some(draw.number()).filter(|first| *first != 0);
    record.has_meta = draw.flag();
    record.sealed = draw.flag();
    let checksum = draw.flag().then(|| checksum(draw));
    record.set_checksum(checksum.as_ref());
    let parts = parts(draw);
    record.set_parts(&parts);
    let id = draw.text(64);
    record.set_upload_id(&id);
    let boot = draw.flag().then(|| draw.array());
    record.set_unsynced(boot);
    record.fields.push((200, draw.bytes(16).to_vec()));

    let back = Record::decode(&record.encode()).expect("it was just encoded");
    assert_eq!(back, record);
    assert_eq!(back.parts(), as_kept(parts));
    assert_eq!(back.upload_id().as_deref(), Some(&*id));
    assert_eq!((back.boot, back.unsynced), (boot, boot.is_some()));
    if let Some(checksum) = checksum
        && checksum.checksum.algorithm != Algorithm::Crc64Nvme
    {
        assert_eq!(back.checksum(), checksum);
    }
}

fn checksum(draw: &mut Draw<'_>) -> ObjectChecksum {
    let kind = draw.pick(&[ChecksumType::FullObject, ChecksumType::Composite]);
    ObjectChecksum {
        checksum: value(draw),
        kind,
    }
}

fn value(draw: &mut Draw<'_>) -> Checksum {
    let algorithm = draw.pick(&Algorithm::ALL);
    let value = draw.array::<32>()[..algorithm.value_len()].to_vec();
    Checksum { algorithm, value }
}

/// Parts as an upload has them: ascending, some of one size, with checksums or without.
fn parts(draw: &mut Draw<'_>) -> Vec<PartInfo> {
    let mut parts = Vec::new();
    let mut number = 0;
    for _ in 0..draw.below(20) {
        number += 1 + draw.below(3) as u16;
        parts.push(PartInfo {
            number,
            size: draw.pick(&[5 << 20, 1, MAX_SIZE, 77]),
            checksum: draw.flag().then(|| value(draw)),
        });
    }
    parts
}

/// Checksums are kept where every part has one of one algorithm.
fn as_kept(mut parts: Vec<PartInfo>) -> Vec<PartInfo> {
    let algorithm = |part: &PartInfo| part.checksum.as_ref().map(|value| value.algorithm);
    let first = parts.first().and_then(algorithm);
    if first.is_none() || parts.iter().any(|part| algorithm(part) != first) {
        parts.iter_mut().for_each(|part| part.checksum = None);
    }
    parts
}
