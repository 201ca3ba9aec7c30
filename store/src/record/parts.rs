//! The sizes and checksums of a multipart object's parts, packed: parts of one size that follow each
//! other are one run, so that the usual upload takes a few bytes whatever its length.
//!
//! Layout: algorithm code of the parts' checksums (1 byte, 0 none), number of parts (2), runs of
//! {first number 2, parts 2, size of each 6} until all parts are named, then the checksums in a row.
//! Numbers ascend from 1 to 10,000 at most, as those of an upload do: what says otherwise is not ours.

use crate::multipart::MAX_PART;
use crate::{Algorithm, Checksum, PartInfo};

/// Packs parts, whose checksums (where all have one of one algorithm) are kept.
pub(super) fn encode(parts: &[PartInfo]) -> Vec<u8> {
    let algorithm = common_algorithm(parts);
    let count = u16::try_from(parts.len()).expect("an upload has at most 10,000 parts");
    let mut bytes = vec![algorithm.map_or(0, Algorithm::code)];
    bytes.extend(count.to_le_bytes());
    let mut rest = parts;
    while let Some(first) = rest.first() {
        let same = |(n, part): &(usize, &PartInfo)| {
            part.size == first.size && usize::from(part.number) == usize::from(first.number) + n
        };
        let run = rest.iter().enumerate().take_while(same).count();
        bytes.extend(first.number.to_le_bytes());
        bytes.extend((run as u16).to_le_bytes());
        bytes.extend(&first.size.to_le_bytes()[..6]);
        rest = &rest[run..];
    }
    if algorithm.is_some() {
        bytes.extend(
            parts
                .iter()
                .filter_map(|part| part.checksum.as_ref())
                .flat_map(|c| c.value.iter()),
        );
    }
    bytes
}

/// Unpacks; `None` where the bytes contradict themselves.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<PartInfo>> {
    let ([algorithm, low, high], mut rest) = bytes.split_first_chunk::<3>()?;
    let count = usize::from(u16::from_le_bytes([*low, *high]));
    if count > usize::from(MAX_PART) {
        return None;
    }
    let mut parts: Vec<PartInfo> = Vec::new();
    while parts.len() < count {
        let (run, after) = rest.split_first_chunk::<10>()?;
        rest = after;
        let first = u16::from_le_bytes([run[0], run[1]]);
        let length = u16::from_le_bytes([run[2], run[3]]);
        let mut size = [0; 8];
        size[..6].copy_from_slice(&run[4..]);
        if length == 0 || parts.len() + usize::from(length) > count {
            return None;
        }
        let last = first.checked_add(length - 1)?;
        let before = parts.last().map_or(0, |part| part.number);
        if first <= before || last > MAX_PART {
            return None;
        }
        let size = u64::from_le_bytes(size);
        parts.extend((first..=last).map(|number| PartInfo {
            number,
            size,
            checksum: None,
        }));
    }
    if *algorithm != 0 {
        let algorithm = Algorithm::from_code(*algorithm)?;
        for part in &mut parts {
            let (value, after) = rest.split_at_checked(algorithm.value_len())?;
            rest = after;
            part.checksum = Some(Checksum {
                algorithm,
                value: value.to_vec(),
            });
        }
    }
    rest.is_empty().then_some(parts)
}

fn common_algorithm(parts: &[PartInfo]) -> Option<Algorithm> {
    let algorithm = parts.first()?.checksum.as_ref()?.algorithm;
    let fits = |part: &PartInfo| {
        part.checksum
            .as_ref()
            .is_some_and(|c| c.algorithm == algorithm && c.value.len() == algorithm.value_len())
    };
    parts.iter().all(fits).then_some(algorithm)
}
