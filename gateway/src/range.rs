//! `Range` of a read and `x-amz-copy-source-range` of a part copy: text in, a slice of the object out.
//!
//! Semantics: RFC 9110, section 14.2, lets a server ignore a Range that it does not understand, and S3 does so for
//! everything but one range of bytes: the whole object is answered with 200.

use http::HeaderValue;
use http::header::CONTENT_RANGE;

use crate::error::{Code, S3Error, S3Result};

/// One range as asked for, before the size is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=5-`
    From(u64),
    /// `bytes=5-9`, both inclusive, in order.
    Between(u64, u64),
    /// `bytes=-5`
    Last(u64),
}

/// The bytes of an object that are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// The first byte.
    pub start: u64,
    /// How many.
    pub length: u64,
}

impl ByteRange {
    /// Parses the value of `Range`; `None` means that it is ignored.
    pub fn parse(header: &str) -> Option<ByteRange> {
        let (unit, range) = header.split_once('=')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = range.split_once('-')?;
        match (first.is_empty(), last.is_empty()) {
            (true, _) => number(last).map(ByteRange::Last),
            (false, true) => number(first).map(ByteRange::From),
            (false, false) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(ByteRange::Between(first, last))
            }
        }
    }

    /// Gives the slice of an object of `size` bytes; an end beyond it is cut.
    ///
    /// # Errors
    /// `InvalidRange` where no byte of the object is asked for; an empty object has none.
    pub fn resolve(self, size: u64) -> S3Result<Slice> {
        let (start, end) = match self {
            ByteRange::From(start) => (start, size),
            ByteRange::Between(start, last) => (start, last.saturating_add(1).min(size)),
            ByteRange::Last(count) => (size.saturating_sub(count), size),
        };
        if start >= end {
            return Err(self.unsatisfiable(size));
        }
        Ok(Slice {
            start,
            length: end - start,
        })
    }

    fn unsatisfiable(self, size: u64) -> S3Error {
        let asked = match self {
            ByteRange::From(start) => format!("bytes={start}-"),
            ByteRange::Between(start, last) => format!("bytes={start}-{last}"),
            ByteRange::Last(count) => format!("bytes=-{count}"),
        };
        let size_only =
            HeaderValue::try_from(format!("bytes */{size}")).expect("digits are a header value");
        S3Error::new(Code::InvalidRange)
            .with("RangeRequested", asked)
            .with("ActualObjectSize", size.to_string())
            .header(CONTENT_RANGE, size_only)
    }
}

impl Slice {
    /// Gives the value of `Content-Range` for an object of `size` bytes; the slice must not be empty.
    pub fn content_range(self, size: u64) -> HeaderValue {
        let last = self.start + self.length.saturating_sub(1);
        HeaderValue::try_from(format!("bytes {}-{last}/{size}", self.start))
            .expect("digits are a header value")
    }
}

/// Reads `x-amz-copy-source-range`: both ends must be there and inside the source.
///
/// # Errors
/// `InvalidArgument`.
pub fn copy_range(header: &str, size: u64) -> S3Result<Slice> {
    let refuse =
        |message: String| S3Error::invalid_argument("x-amz-copy-source-range", header, message);
    let Some(ByteRange::Between(first, last)) = ByteRange::parse(header) else {
        return Err(refuse(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy"
                .to_owned(),
        ));
    };
    if last >= size {
        return Err(refuse(format!(
            "Range specified is not valid for source object of size: {size}"
        )));
    }
    Ok(Slice {
        start: first,
        length: last - first + 1,
    })
}

/// Digits only; a number beyond 64 bits is beyond every object too.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_one_range_of_bytes_is_ignored() {
        for header in [
            "bytes=0-0,1-2",
            "bytes=10-5",
            "bytes=abc",
            "foo=0-1",
            "bytes= 0-1",
            "bytes=0 -1",
            "bytes=--1",
            "bytes=-",
            "bytes=",
            "bytes",
            "",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes=0x1-2",
        ] {
            assert_eq!(ByteRange::parse(header), None, "{header:?}");
        }
    }

    #[test]
    fn ranges_resolve_within_the_object() {
        for (header, size, start, length) in [
            ("bytes=0-0", 10, 0, 1),
            ("bytes=00-01", 10, 0, 2),
            ("bytes=5-", 10, 5, 5),
            ("bytes=5-99", 10, 5, 5),
            ("bytes=9-18446744073709551615", 10, 9, 1),
            ("bytes=9-99999999999999999999999", 10, 9, 1),
            ("bytes=-3", 10, 7, 3),
            ("bytes=-30", 10, 0, 10),
            ("Bytes=0-9", 10, 0, 10),
        ] {
            let slice = ByteRange::parse(header)
                .expect(header)
                .resolve(size)
                .expect(header);
            assert_eq!(slice, Slice { start, length }, "{header}");
        }
        assert_eq!(
            Slice {
                start: 7,
                length: 3
            }
            .content_range(10),
            "bytes 7-9/10"
        );
    }

    #[test]
    fn ranges_without_a_byte_are_416_with_the_size() {
        for (header, size) in [
            ("bytes=10-", 10),
            ("bytes=10-20", 10),
            ("bytes=-0", 10),
            ("bytes=0-0", 0),
            ("bytes=0-", 0),
            ("bytes=-5", 0),
            ("bytes=99999999999999999999-", 10),
        ] {
            let error = ByteRange::parse(header)
                .expect(header)
                .resolve(size)
                .expect_err(header);
            assert_eq!(
                (error.code(), error.status().as_u16()),
                (Code::InvalidRange, 416)
            );
            assert_eq!(error.headers()[0].1, format!("bytes */{size}"), "{header}");
        }
    }

    #[test]
    fn copy_ranges_must_be_closed_and_inside() {
        assert_eq!(
            copy_range("bytes=2-4", 5).expect("inside"),
            Slice {
                start: 2,
                length: 3
            }
        );
        for header in [
            "bytes=0-5",
            "bytes=2-",
            "bytes=-2",
            "bytes=0-1,2-3",
            "bytes=3-2",
            "0-1",
            "x",
            "",
        ] {
            assert_eq!(
                copy_range(header, 5).expect_err(header).code(),
                Code::InvalidArgument
            );
        }
    }
}
