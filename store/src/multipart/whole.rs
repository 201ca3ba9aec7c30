//! What a list of parts makes of an upload: which parts, and the object's size, entity tag and checksums.
//! Compares what the client says with what is stored; changes nothing.

use super::complete::{CompleteRequest, ListedPart};
use super::part::mismatch;
use super::slot::Slot;
use super::{Upload, document};
use crate::checksum::combine_crcs;
use crate::hash::Md5;
use crate::{
    Algorithm, Checksum, ChecksumType, Digester, ETag, ObjectChecksum, PartInfo, Result, StoreError,
};

/// What the object will be, as the parts say.
pub(super) struct Whole {
    pub etag: ETag,
    pub size: u64,
    pub crc64: u64,
    pub checksum: ObjectChecksum,
    pub parts: Vec<PartInfo>,
}

impl Upload {
    /// The listed parts as they are stored.
    pub(super) fn check_list(
        &self,
        request: &CompleteRequest,
        stored: &[(u16, Slot)],
    ) -> Result<Vec<(u16, Slot)>> {
        let Some(last) = request.parts.last() else {
            return Err(StoreError::InvalidRequest(
                "You must specify at least one part".to_owned(),
            ));
        };
        let mut listed = Vec::with_capacity(request.parts.len());
        for part in &request.parts {
            let found = stored.binary_search_by_key(&part.number, |(number, _)| *number);
            let slot = found
                .ok()
                .map(|at| &stored[at].1)
                .filter(|slot| parse_etag(&part.etag) == Some(slot.md5));
            let slot = slot.ok_or(StoreError::InvalidPart(part.number))?;
            self.check_part(part, slot)?;
            if slot.size < request.min_part && part.number != last.number {
                return Err(StoreError::PartTooSmall {
                    number: part.number,
                    size: slot.size,
                    minimum: request.min_part,
                    etag: ETag::Md5(slot.md5).to_string(),
                });
            }
            listed.push((part.number, slot.clone()));
        }
        Ok(listed)
    }

    /// Compares a listed part's checksums. An upload created without an algorithm ignores them.
    fn check_part(&self, part: &ListedPart, slot: &Slot) -> Result<()> {
        let Some((algorithm, kind)) = self.spec().checksum else {
            return Ok(());
        };
        if let Some(other) = part.checksums.iter().find(|c| c.algorithm != algorithm) {
            return Err(mismatch(algorithm, other.algorithm));
        }
        match part.checksums.first() {
            Some(sent) if slot.checksum.as_ref() != Some(sent) => {
                Err(StoreError::InvalidPart(part.number))
            }
            None if kind == ChecksumType::Composite => Err(StoreError::InvalidRequest(format!(
                "The upload was created using a {} checksum. The complete request must include the checksum \
                 for each part. It was missing for part {} in the request.",
                document::algorithm_name(algorithm).to_ascii_lowercase(),
                part.number
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn whole(&self, listed: &[(u16, Slot)]) -> Whole {
        let pieces = |of: &dyn Fn(&Slot) -> Option<Checksum>| -> Option<Vec<(Checksum, u64)>> {
            listed
                .iter()
                .map(|(_, slot)| Some((of(slot)?, slot.size)))
                .collect()
        };
        let combined = |algorithm, of: &dyn Fn(&Slot) -> Option<Checksum>| {
            pieces(of).and_then(|pieces| combine_crcs(algorithm, &pieces))
        };
        let crc = combined(Algorithm::Crc64Nvme, &|slot| {
            Some(Checksum::crc64(slot.crc64))
        })
        .expect("every slot has a CRC64NVME, which combines");
        let crc64 = crc
            .value
            .iter()
            .fold(0, |crc, byte| crc << 8 | u64::from(*byte));
        let named = match self.spec().checksum {
            None | Some((Algorithm::Crc64Nvme, _)) => None,
            Some((algorithm, ChecksumType::FullObject)) => {
                combined(algorithm, &|slot| slot.checksum.clone()).map(|checksum| ObjectChecksum {
                    checksum,
                    kind: ChecksumType::FullObject,
                })
            }
            Some((algorithm, ChecksumType::Composite)) => Some(composite(algorithm, listed)),
        };
        Whole {
            etag: etag_of(listed.iter().map(|(_, slot)| slot.md5)),
            size: listed.iter().map(|(_, slot)| slot.size).sum(),
            crc64,
            checksum: named.unwrap_or(ObjectChecksum {
                checksum: crc,
                kind: ChecksumType::FullObject,
            }),
            parts: listed
                .iter()
                .map(|(number, slot)| PartInfo {
                    number: *number,
                    size: slot.size,
                    // Of an upload without an algorithm they are the sender's, and of no use later.
                    checksum: slot
                        .checksum
                        .clone()
                        .filter(|_| self.spec().checksum.is_some()),
                })
                .collect(),
        }
    }

    /// Compares what the client expects of the whole.
    pub(super) fn check_whole(
        &self,
        request: &CompleteRequest,
        whole: &Whole,
        listed: &[(u16, Slot)],
    ) -> Result<()> {
        if let Some(size) = request.size.filter(|size| *size != whole.size) {
            return Err(StoreError::InvalidRequest(format!(
                "The provided 'x-amz-mp-object-size' header value {size} does not match what was computed: {}",
                whole.size
            )));
        }
        let kind = whole.checksum.kind;
        if let Some(sent) = request.checksum_type.filter(|sent| *sent != kind) {
            return Err(StoreError::InvalidRequest(format!(
                "The upload was created using the {} checksum mode. The complete request must use the same \
                 checksum mode, not {}.",
                document::type_name(kind),
                document::type_name(sent)
            )));
        }
        let Some(sent) = &request.checksum else {
            return Ok(());
        };
        let computed = if sent.algorithm == whole.checksum.checksum.algorithm {
            Some(whole.checksum.checksum.clone())
        } else if sent.algorithm == Algorithm::Crc64Nvme {
            Some(Checksum::crc64(whole.crc64))
        } else if self.spec().checksum.is_none() {
            let pieces: Option<Vec<_>> = listed
                .iter()
                .map(|(_, slot)| Some((slot.checksum.clone()?, slot.size)))
                .collect();
            pieces.and_then(|pieces| combine_crcs(sent.algorithm, &pieces))
        } else {
            None
        };
        match computed {
            Some(computed) if computed == *sent => Ok(()),
            Some(_) => Err(StoreError::BadDigest("checksum of the whole object")),
            None => Err(mismatch(whole.checksum.checksum.algorithm, sent.algorithm)),
        }
    }
}

/// The MD5 that an entity tag of a part names.
fn parse_etag(etag: &str) -> Option<[u8; 16]> {
    let hex = etag.trim().trim_matches('"');
    if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(hex, 16).ok().map(u128::to_be_bytes)
}

/// The entity tag that an object of the listed parts has.
pub(super) fn listed_etag(parts: &[ListedPart]) -> Option<ETag> {
    let md5s: Option<Vec<_>> = parts.iter().map(|part| parse_etag(&part.etag)).collect();
    md5s.map(|md5s| etag_of(md5s.into_iter()))
}

pub(crate) fn etag_of(md5s: impl ExactSizeIterator<Item = [u8; 16]>) -> ETag {
    let count = u16::try_from(md5s.len()).expect("an upload has at most 10,000 parts");
    let mut md5 = Md5::default();
    md5s.for_each(|part| md5.update(&part));
    ETag::Multipart(md5.finish(), count)
}

/// The checksum of the parts' checksums.
fn composite(algorithm: Algorithm, listed: &[(u16, Slot)]) -> ObjectChecksum {
    let mut digester = Digester::new(&[algorithm]);
    for checksum in listed.iter().filter_map(|(_, slot)| slot.checksum.as_ref()) {
        digester.update(&checksum.value);
    }
    let checksum = digester
        .finish()
        .checksum(algorithm)
        .expect("it was asked for");
    ObjectChecksum {
        checksum,
        kind: ChecksumType::Composite,
    }
}
