//! Judges the head of an HTTP/1.1 request over the bytes as received: is it whole, may it be run, what follows it?
//!
//! The parser is hyper's own, and the rules behind it are hyper's as well, so that whatever passes here is read by
//! hyper in the same way; beyond them stands one: a head that announces its body in two ways is refused (RFC 9112,
//! 6.1 and 11.2). hyper takes the coding and drops the length, of which nothing is left for a service to see.

use std::mem::MaybeUninit;

use http::{Method, Uri};

use super::limits::Limits;
use crate::error::{Code, S3Error};

/// Header fields of one head at most, whatever the limits say.
const MAX_FIELDS: usize = 256;
/// hyper refuses to hold more of a head: refused before, it gets its document.
const MAX_BYTES: usize = 400 << 10;
/// hyper's largest length; the two numbers above it mean something else to it.
const MAX_LENGTH: u64 = u64::MAX - 2;
/// What a client begins with that speaks HTTP/2 unasked (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the bytes are.
#[derive(Debug)]
pub(crate) enum Judged {
    /// The beginning of a head.
    Partial,
    /// A head of `len` bytes, and then this body.
    Whole { len: usize, body: Framing },
    /// No HTTP/1.1; hyper knows how to end that.
    Http2,
    /// A head that is not run.
    Refused(Refusal),
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes; zero where nothing was announced.
    Length(u64),
    /// HTTP's own chunks say it.
    Chunked,
}

/// Why a head is not run, and what can be said of it.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Its method; `-` where there is none to be read.
    pub(crate) method: Method,
    /// Its target, as far as it was read.
    pub(crate) target: String,
    /// The answer; it ends the connection, because nobody knows where the next request would begin.
    pub(crate) error: S3Error,
}

/// Says up to where a head is taken; a longer one is refused before it is whole.
pub(crate) fn max_bytes(limits: &Limits) -> usize {
    // Above the limit itself, so that a head between the two is refused as a request and the connection goes on.
    limits.header_bytes.saturating_mul(4).min(MAX_BYTES)
}

/// Judges what has come since the last request.
pub(crate) fn judge(bytes: &[u8], limits: &Limits) -> Judged {
    if bytes.starts_with(b"PRI ") && bytes.iter().zip(HTTP2_PREFACE).all(|(a, b)| a == b) {
        return match bytes.len() >= HTTP2_PREFACE.len() {
            true => Judged::Http2,
            false => Judged::Partial,
        };
    }
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let fields = &mut fields[..limits.headers.min(MAX_FIELDS)];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, fields);
    let verdict = match parsed {
        Ok(httparse::Status::Partial) if bytes.len() < max_bytes(limits) => return Judged::Partial,
        Ok(httparse::Status::Complete(len)) if len <= max_bytes(limits) => {
            body_of(&request).map(|body| Judged::Whole { len, body })
        }
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            Err(S3Error::new(Code::RequestHeaderSectionTooLarge))
        }
        Err(_) => Err(bad("An error occurred when parsing the HTTP request.")),
    };
    verdict.unwrap_or_else(|error| {
        Judged::Refused(Refusal {
            method: request.method.and_then(readable).unwrap_or_else(unreadable),
            target: request.path.unwrap_or_default().to_owned(),
            error: error.close(),
        })
    })
}

fn readable(method: &str) -> Option<Method> {
    Method::from_bytes(method.as_bytes()).ok()
}

fn unreadable() -> Method {
    Method::from_bytes(b"-").expect("a hyphen is a token")
}

fn bad(message: &'static str) -> S3Error {
    S3Error::new(Code::BadRequest).message(message)
}

/// Holds a parsed head to the rules, and says what follows it.
fn body_of(request: &httparse::Request<'_, '_>) -> Result<Framing, S3Error> {
    if request.method.and_then(readable).is_none() {
        return Err(bad("The request has no valid method."));
    }
    if Uri::try_from(request.path.unwrap_or_default()).is_err() {
        return Err(S3Error::new(Code::InvalidURI));
    }
    let (mut length, mut coding) = (None, None);
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            coding = Some(field.value);
        } else if field.name.eq_ignore_ascii_case("content-length") {
            let announced = digits(field.value)
                .filter(|announced| length.is_none_or(|before| before == *announced))
                .ok_or_else(|| bad("Content-Length is not one number of bytes."))?;
            length = Some(announced);
        }
    }
    match (length, coding) {
        (Some(_), Some(_)) => Err(bad(
            "A request has Content-Length or Transfer-Encoding, not both.",
        )),
        (length, None) => Ok(Framing::Length(length.unwrap_or(0))),
        (None, Some(_)) if request.version != Some(1) => {
            Err(bad("HTTP/1.0 knows no Transfer-Encoding."))
        }
        (None, Some(coding)) if ends_chunked(coding) => Ok(Framing::Chunked),
        (None, Some(_)) => Err(bad("The last transfer coding of a request is chunked.")),
    }
}

/// A length in plain digits: no sign, no list.
fn digits(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let length = plain.then(|| text.parse().ok()).flatten()?;
    (length <= MAX_LENGTH).then_some(length)
}

fn ends_chunked(coding: &[u8]) -> bool {
    let last = coding.rsplit(|b| *b == b',').next().unwrap_or_default();
    coding.is_ascii() && last.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(head: &str) -> Judged {
        judge(head.as_bytes(), &Limits::default())
    }

    fn refusal(head: &str) -> Refusal {
        match judged(head) {
            Judged::Refused(refusal) => refusal,
            other => panic!("{head:?}: {other:?}"),
        }
    }

    #[test]
    fn a_head_says_how_long_it_is_and_what_follows() {
        for (fields, framing) in [
            ("", Framing::Length(0)),
            ("Content-Length: 5\r\n", Framing::Length(5)),
            (
                "content-length: 05\nCONTENT-LENGTH:5 \r\n",
                Framing::Length(5),
            ),
            ("Transfer-Encoding:\tCHUNKED \r\n", Framing::Chunked),
            ("transfer-encoding: gzip, chunked\r\n", Framing::Chunked),
            (
                "x-content-length: 5\r\ntransfer-encoding: chunked\r\n",
                Framing::Chunked,
            ),
        ] {
            let head = format!("\r\nPUT /b/k HTTP/1.1\r\nHost: t\r\n{fields}\r\n");
            match judged(&(head.clone() + "5\r\nGET / HTTP/1.1\r\n")) {
                Judged::Whole { len, body } => assert_eq!((len, body), (head.len(), framing)),
                other => panic!("{fields:?}: {other:?}"),
            }
            for cut in 0..head.len() {
                let part = judged(&head[..cut]);
                assert!(matches!(part, Judged::Partial), "{cut}: {part:?}");
            }
        }
    }

    #[test]
    fn a_body_that_is_announced_in_two_ways_is_refused_in_any_order_and_case() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "transfer-encoding: chunked\r\nx-between: y\r\ncontent-length: 5\r\n",
            "TRANSFER-ENCODING: gzip, chunked\r\nCoNtEnT-LeNgTh: 0\r\n",
            "content-length: 5\r\ntransfer-encoding: identity\r\n",
        ] {
            let refused = refusal(&format!("PUT /b/k HTTP/1.1\r\nHost: t\r\n{fields}\r\n"));
            assert_eq!(refused.error.code(), Code::BadRequest, "{fields:?}");
            assert!(refused.error.text().ends_with("not both."), "{fields:?}");
            assert!(refused.error.closes());
            assert_eq!(
                (refused.method, refused.target.as_str()),
                (Method::PUT, "/b/k")
            );
        }
    }

    #[test]
    fn a_head_that_is_none_is_refused_with_what_could_be_read_of_it() {
        for (head, method, code) in [
            ("GET / HTTP/9.9\r\n\r\n", "GET", Code::BadRequest),
            ("\x16\x03\x01", "-", Code::BadRequest),
            (
                "GET / HTTP/1.1\r\nno colon\r\n\r\n",
                "GET",
                Code::BadRequest,
            ),
            (
                "PUT / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n",
                "PUT",
                Code::BadRequest,
            ),
            (
                "PUT / HTTP/1.1\r\nx: y\r\n folded\r\n\r\n",
                "PUT",
                Code::BadRequest,
            ),
            (
                "PUT / HTTP/1.1\r\ncontent-length: 5, 5\r\n\r\n",
                "PUT",
                Code::BadRequest,
            ),
            (
                "PUT / HTTP/1.1\r\ncontent-length: +5\r\n\r\n",
                "PUT",
                Code::BadRequest,
            ),
            (
                "PUT / HTTP/1.1\r\ncontent-length: 18446744073709551614\r\n\r\n",
                "PUT",
                Code::BadRequest,
            ),
            (
                "PUT / HTTP/1.1\r\ntransfer-encoding: chunked, identity\r\n\r\n",
                "PUT",
                Code::BadRequest,
            ),
            (
                "PUT / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
                "PUT",
                Code::BadRequest,
            ),
            ("GET /\"<>^` HTTP/1.1\r\n\r\n", "GET", Code::InvalidURI),
        ] {
            let refused = refusal(head);
            assert_eq!(
                (refused.method.as_str(), refused.error.code()),
                (method, code),
                "{head:?}"
            );
        }
    }

    #[test]
    fn a_head_beyond_every_limit_is_refused_before_its_end_and_one_below_is_left_to_the_service() {
        let long = |bytes: usize| format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(bytes));
        assert!(matches!(
            judged(&(long(60_000) + "\r\n\r\n")),
            Judged::Whole { .. }
        ));
        for head in [
            long(70_000),
            long(70_000) + "\r\n\r\n",
            "GET / HTTP/1.1\r\n".to_owned() + &"x: y\r\n".repeat(257) + "\r\n",
        ] {
            let refused = refusal(&head);
            assert_eq!(refused.error.code(), Code::RequestHeaderSectionTooLarge);
        }
    }

    #[test]
    fn the_preface_of_http2_is_no_head() {
        let preface = std::str::from_utf8(HTTP2_PREFACE).expect("it is ASCII");
        assert!(matches!(judged(preface), Judged::Http2));
        assert!(matches!(judged(&preface[..14]), Judged::Partial));
        assert_eq!(
            refusal("PRI * HTTP/2.0\r\nhost: x\r\n\r\n").error.code(),
            Code::BadRequest
        );
    }
}
