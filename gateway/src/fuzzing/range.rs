//! `Range`: what is parsed against a reading by hand, what is answered against trying every byte.

use super::draw::Draw;
use crate::error::Code;
use crate::range::{ByteRange, Slice, copy_range};

/// One header and the size of one object.
pub fn range(data: &[u8]) {
    let mut draw = Draw::new(data);
    let size = match draw.below(4) {
        0 => draw.number(),
        _ => u64::from(draw.byte() % 40),
    };
    let header = match draw.below(3) {
        0 => String::from_utf8_lossy(draw.rest()).into_owned(),
        1 => format!("bytes={}-{}", draw.byte() % 44, draw.byte() % 44),
        _ => format!("bytes={}", String::from_utf8_lossy(draw.rest())),
    };
    let parsed = ByteRange::parse(&header);
    assert_eq!(parsed, by_hand(&header), "{header:?}");
    let slice = parsed.map(|range| range.resolve(size));
    if let Some(slice) = &slice {
        match slice {
            Ok(slice) => check_slice(*slice, size),
            Err(error) => assert_eq!(error.code(), Code::InvalidRange),
        }
        if size < 40 {
            assert_eq!(
                slice.as_ref().ok().copied(),
                byte_by_byte(&header, size),
                "{header:?}"
            );
        }
    }
    if let Ok(copied) = copy_range(&header, size) {
        check_slice(copied, size);
        let same = slice
            .expect("a copy's range is a range")
            .expect("it has bytes");
        assert_eq!(copied, same);
    }
}

fn check_slice(slice: Slice, size: u64) {
    let end = slice.start.checked_add(slice.length).expect("an end");
    assert!(slice.length > 0 && end <= size);
    let header = slice.content_range(size);
    let expected = format!("bytes {}-{}/{size}", slice.start, end - 1);
    assert_eq!(header.as_bytes(), expected.as_bytes());
}

/// RFC 9110, section 14.1.2: `first-pos "-" [ last-pos ]` or `"-" suffix-length`, of digits; one only.
fn by_hand(header: &str) -> Option<ByteRange> {
    let lower = header.to_ascii_lowercase();
    let range = lower.strip_prefix("bytes=")?;
    if !range.chars().all(|c| c.is_ascii_digit() || c == '-') || range.matches('-').count() != 1 {
        return None;
    }
    let (first, last) = range.split_at(range.find('-').expect("one hyphen"));
    let (first, last) = (number(first), number(&last[1..]));
    match (first, last) {
        (None, None) => None,
        (Some(first), None) => Some(ByteRange::From(first)),
        (None, Some(last)) => Some(ByteRange::Last(last)),
        (Some(first), Some(last)) if first > last => None,
        (Some(first), Some(last)) => Some(ByteRange::Between(first, last)),
    }
}

/// Beyond 64 bits is as good as the end of them; no digits are no number.
fn number(digits: &str) -> Option<u64> {
    let add = |sum: u128, digit: u8| (sum * 10 + u128::from(digit - b'0')).min(u64::MAX.into());
    let sum = digits.bytes().fold(0, add);
    (!digits.is_empty()).then_some(sum as u64)
}

/// The bytes of a small object that a range asks for.
fn byte_by_byte(header: &str, size: u64) -> Option<Slice> {
    let asked = by_hand(header)?;
    let wanted = (0..size).filter(|at| match asked {
        ByteRange::From(first) => *at >= first,
        ByteRange::Between(first, last) => (first..=last).contains(at),
        ByteRange::Last(count) => size - at <= count,
    });
    let wanted: Vec<u64> = wanted.collect();
    Some(Slice {
        start: *wanted.first()?,
        length: wanted.len() as u64,
    })
}
