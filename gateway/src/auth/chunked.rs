//! aws-chunked framing: takes it off the body, and verifies each chunk's and the trailer's signature.
//!
//! The decoder is fed whatever pieces the connection gives and hands out slices of them; it holds no more
//! than one line. What it hands out is verified when [`Decoder::finish`] says so, and not before: callers
//! publish nothing until then. Which checksum a trailer must match is the caller's business.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use ring::digest::{Context, SHA256};

use super::canonical::{hex, hex32};
use super::credentials::{KeyedHmac, hmac_sha256, is_same};
use crate::error::{Code, S3Error};

/// The longest chunk header or trailer line, in bytes: a size, a signature, a checksum fit many times.
const MAX_LINE: usize = 1024;
/// The most trailer lines.
const MAX_TRAILERS: usize = 8;
/// The most bytes of line ends where none is needed.
const MAX_STRAY: usize = 4;
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature";

/// Which of the three framings a body has, and what its signatures chain from.
#[derive(Clone, Debug)]
pub struct Framing {
    /// Boxed: nearly no request has one, and each is handed on with it.
    signer: Option<Box<ChunkSigner>>,
    trailer: bool,
}

impl Framing {
    /// `STREAMING-UNSIGNED-PAYLOAD-TRAILER`.
    pub(crate) fn unsigned() -> Self {
        Self {
            signer: None,
            trailer: true,
        }
    }

    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD`, or with `-TRAILER`.
    pub(crate) fn signed(signer: ChunkSigner, trailer: bool) -> Self {
        Self {
            signer: Some(Box::new(signer)),
            trailer,
        }
    }
}

/// The chain of chunk signatures: each covers the one before it, the first the request's own.
#[derive(Clone)]
pub(crate) struct ChunkSigner {
    key: Arc<KeyedHmac>,
    /// `\nTIMESTAMP\nSCOPE\n`, which every string to sign holds.
    common: String,
    previous: String,
}

impl ChunkSigner {
    pub(crate) fn new(key: Arc<KeyedHmac>, timestamp: &str, scope: &str, seed: String) -> Self {
        Self {
            key,
            common: format!("\n{timestamp}\n{scope}\n"),
            previous: seed,
        }
    }

    /// Checks the signature of a chunk with this digest, and moves on to it.
    fn chunk(&mut self, digest: &str, given: &[u8; 32]) -> Result<(), S3Error> {
        let to_sign = format!(
            "AWS4-HMAC-SHA256-PAYLOAD{}{}\n{EMPTY_SHA256}\n{digest}",
            self.common, self.previous
        );
        self.verify(to_sign, given)
    }

    /// Checks the signature of the trailer with this digest.
    fn trailer(&mut self, digest: &str, given: &[u8; 32]) -> Result<(), S3Error> {
        let to_sign = format!(
            "AWS4-HMAC-SHA256-TRAILER{}{}\n{digest}",
            self.common, self.previous
        );
        self.verify(to_sign, given)
    }

    fn verify(&mut self, to_sign: String, given: &[u8; 32]) -> Result<(), S3Error> {
        let computed = hmac_sha256(&self.key, to_sign.as_bytes());
        if !is_same(&computed, given) {
            return Err(S3Error::new(Code::SignatureDoesNotMatch)
                .with("StringToSign", to_sign)
                .with("SignatureProvided", hex(given)));
        }
        self.previous = hex(given);
        Ok(())
    }
}

impl fmt::Debug for ChunkSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkSigner")
            .field("previous", &self.previous)
            .finish_non_exhaustive()
    }
}

/// Where in the framing the next byte lies.
enum State {
    /// In a chunk's header line.
    Header,
    /// In a chunk's bytes; the digest of those before, and the signature they must have.
    Data {
        left: u64,
        signed: Option<Box<(Context, [u8; 32])>>,
    },
    /// In the line end behind a chunk's bytes.
    DataEnd,
    /// In a line of the trailer, or the empty line that ends the body.
    Trailer,
    /// Behind everything.
    End,
}

/// Takes the framing off one body.
pub struct Decoder {
    framing: Framing,
    state: State,
    input: Bytes,
    /// The line that is being collected.
    line: Vec<u8>,
    /// `x-amz-decoded-content-length`.
    decoded_length: u64,
    /// Bytes announced by chunk headers so far.
    announced: u64,
    /// Lower-case names from `x-amz-trailer`.
    declared: Vec<String>,
    trailers: Vec<(String, String)>,
    trailer_signed: bool,
    /// Line ends seen where none is needed.
    stray: usize,
}

impl Decoder {
    /// Starts a decoder with what the head says of the body: its decoded length and its trailers.
    ///
    /// # Errors
    /// MissingContentLength without `x-amz-decoded-content-length`, InvalidArgument for one that is no number.
    pub fn new(framing: Framing, headers: &HeaderMap) -> Result<Self, S3Error> {
        let decoded_length = decoded_length(headers)?;
        let declared = headers.get_all("x-amz-trailer").iter();
        let declared = declared
            .flat_map(|value| value.as_bytes().split(|b| *b == b','))
            .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
            .filter(|name| !name.is_empty())
            .collect();
        Ok(Self {
            framing,
            state: State::Header,
            input: Bytes::new(),
            line: Vec::new(),
            decoded_length,
            announced: 0,
            declared,
            trailers: Vec::new(),
            trailer_signed: false,
            stray: 0,
        })
    }

    /// How many bytes the body has without its framing.
    pub fn decoded_length(&self) -> u64 {
        self.decoded_length
    }

    /// Bytes that are kept from one piece to the next, beside the head's own.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn held(&self) -> usize {
        let trailers = self.trailers.iter();
        let trailers = trailers.map(|(name, value)| name.capacity() + value.capacity());
        self.line.capacity() + trailers.sum::<usize>()
    }

    /// The most of them: a line (a vector grows to twice what it holds), and the lines of the trailer.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) const MOST_HELD: usize = MAX_LINE * (2 + MAX_TRAILERS);

    /// Hands in the next piece; the one before must have been used up.
    pub fn push(&mut self, piece: Bytes) {
        debug_assert!(self.input.is_empty(), "the piece before is used up first");
        self.input = piece;
    }

    /// Gives the next slice of the payload, or `None` when the piece is used up.
    ///
    /// # Errors
    /// SignatureDoesNotMatch, IncompleteBody, InvalidChunkSizeError, MalformedTrailerError. The decoder is of
    /// no use afterwards.
    #[expect(
        clippy::should_implement_trait,
        reason = "it goes on after None, once more input is there"
    )]
    pub fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        while !self.input.is_empty() {
            if let State::Data { left, .. } = &self.state
                && *left > 0
            {
                return self.take_data().map(Some);
            }
            match self.state {
                State::End => self.behind_the_end()?,
                _ => {
                    if self.take_line()? {
                        let line = std::mem::take(&mut self.line);
                        self.read_line(&line)?;
                    }
                }
            }
        }
        Ok(None)
    }

    /// Ends the body, and gives the trailers: lower-case names and values.
    ///
    /// # Errors
    /// IncompleteBody where something is missing, MalformedTrailerError where a declared trailer is.
    pub fn finish(self) -> Result<Vec<(String, String)>, S3Error> {
        if !matches!(self.state, State::End) {
            return Err(incomplete("the body ends within its aws-chunked framing"));
        }
        if self.announced != self.decoded_length {
            return Err(incomplete(
                "the chunks do not add up to x-amz-decoded-content-length",
            ));
        }
        if let Some(name) = self
            .declared
            .iter()
            .find(|name| !self.trailers.iter().any(|(sent, _)| sent == *name))
        {
            return Err(malformed_trailer(format!(
                "The trailer {name} was declared and not sent."
            )));
        }
        Ok(self.trailers)
    }

    /// Hands out what there is of the current chunk.
    fn take_data(&mut self) -> Result<Bytes, S3Error> {
        let State::Data { left, signed } = &mut self.state else {
            unreachable!("called within a chunk only")
        };
        let take = usize::try_from(*left)
            .unwrap_or(usize::MAX)
            .min(self.input.len());
        let data = self.input.split_to(take);
        *left -= take as u64;
        if let Some(chunk) = signed {
            chunk.0.update(&data);
        }
        if *left == 0 {
            let State::Data { signed, .. } = std::mem::replace(&mut self.state, State::DataEnd)
            else {
                unreachable!("the state was looked at above")
            };
            if let Some(chunk) = signed {
                let (digest, given) = *chunk;
                self.verify_chunk(&hex(digest.finish().as_ref()), &given)?;
            }
        }
        Ok(data)
    }

    fn verify_chunk(&mut self, digest: &str, given: &[u8; 32]) -> Result<(), S3Error> {
        let signer = self
            .framing
            .signer
            .as_mut()
            .expect("only signed framing keeps a chunk's signature");
        signer.chunk(digest, given)
    }

    /// Collects up to a line feed; says whether the line is whole.
    fn take_line(&mut self) -> Result<bool, S3Error> {
        let end = self
            .input
            .iter()
            .take(MAX_LINE + 1)
            .position(|b| *b == b'\n');
        let take = end.map_or(self.input.len(), |at| at + 1);
        if self.line.len() + take > MAX_LINE {
            return Err(match self.state {
                State::Trailer => malformed_trailer("A line of the trailer is too long."),
                _ => incomplete("a line of the aws-chunked framing is too long"),
            });
        }
        self.line.extend_from_slice(&self.input[..take]);
        self.input.advance(take);
        Ok(end.is_some())
    }

    fn read_line(&mut self, line: &[u8]) -> Result<(), S3Error> {
        let crlf = line.strip_suffix(b"\r\n");
        match self.state {
            State::Header => {
                let line = crlf.ok_or_else(|| incomplete("a chunk header does not end in CRLF"))?;
                self.read_header(line)
            }
            State::DataEnd => {
                if crlf != Some(b"") {
                    return Err(incomplete("a chunk is longer than its header says"));
                }
                self.state = State::Header;
                Ok(())
            }
            // minio-go ends the checksum's line with a bare line feed, as AWS's own example does.
            State::Trailer => {
                self.read_trailer(crlf.or_else(|| line.strip_suffix(b"\n")).unwrap_or(line))
            }
            State::Data { .. } | State::End => unreachable!("no lines are collected there"),
        }
    }

    /// Reads `SIZE` or `SIZE;chunk-signature=HEX`.
    fn read_header(&mut self, line: &[u8]) -> Result<(), S3Error> {
        let (size, extension) = match line.iter().position(|b| *b == b';') {
            Some(at) => (&line[..at], Some(&line[at + 1..])),
            None => (line, None),
        };
        let size = chunk_size(size)?;
        self.announced = self
            .announced
            .checked_add(size)
            .filter(|sum| *sum <= self.decoded_length)
            .ok_or_else(|| incomplete("the chunks hold more than x-amz-decoded-content-length"))?;
        let given = match &self.framing.signer {
            None => None,
            Some(_) => {
                let signature = extension.and_then(|text| text.strip_prefix(b"chunk-signature="));
                Some(signature.and_then(hex32).ok_or_else(|| {
                    S3Error::new(Code::SignatureDoesNotMatch)
                        .message("A chunk header holds no chunk-signature.")
                })?)
            }
        };
        if size > 0 {
            let signed = given.map(|given| Box::new((Context::new(&SHA256), given)));
            self.state = State::Data { left: size, signed };
            return Ok(());
        }
        if let Some(given) = given {
            self.verify_chunk(EMPTY_SHA256, &given)?;
        }
        self.state = State::Trailer;
        Ok(())
    }

    /// Reads `NAME:VALUE`, or the empty line that ends the body.
    fn read_trailer(&mut self, line: &[u8]) -> Result<(), S3Error> {
        let expects_signature =
            self.framing.signer.is_some() && self.framing.trailer && !self.trailer_signed;
        if line.is_empty() {
            // In signed form the signature's line is to come, and minio-go puts an empty line before it.
            if expects_signature && self.trailers.is_empty() {
                return Err(malformed_trailer(
                    "The trailer holds no x-amz-trailer-signature.",
                ));
            }
            if !expects_signature {
                self.state = State::End;
                return Ok(());
            }
            return self.stray_line_end(2);
        }
        if !self.framing.trailer || self.trailer_signed || self.trailers.len() >= MAX_TRAILERS {
            return Err(malformed_trailer(
                "The body has a trailer where none is allowed.",
            ));
        }
        let line = std::str::from_utf8(line)
            .map_err(|_| malformed_trailer("The trailer is not UTF-8."))?;
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| malformed_trailer("A line of the trailer has no colon."))?;
        let blank = [' ', '\t'];
        let (name, value) = (
            name.trim_matches(blank).to_ascii_lowercase(),
            value.trim_matches(blank).to_owned(),
        );
        if expects_signature && name == TRAILER_SIGNATURE {
            return self.verify_trailer(&value);
        }
        if !self.declared.contains(&name) {
            return Err(malformed_trailer(format!(
                "The trailer {name} was not declared in x-amz-trailer."
            )));
        }
        if self.trailers.iter().any(|(sent, _)| *sent == name) {
            return Err(malformed_trailer(format!(
                "The trailer {name} is there twice."
            )));
        }
        self.trailers.push((name, value));
        Ok(())
    }

    fn verify_trailer(&mut self, given: &str) -> Result<(), S3Error> {
        let canonical: String = self
            .trailers
            .iter()
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let digest = hex(ring::digest::digest(&SHA256, canonical.as_bytes()).as_ref());
        let signer = self
            .framing
            .signer
            .as_mut()
            .expect("only signed framing expects a trailer's signature");
        let given = hex32(given.as_bytes()).ok_or_else(|| {
            S3Error::new(Code::SignatureDoesNotMatch)
                .message("The trailer's signature is not 64 hex digits.")
        })?;
        signer.trailer(&digest, &given)?;
        self.trailer_signed = true;
        Ok(())
    }

    /// Line ends behind the body are harmless; anything else was never signed.
    fn behind_the_end(&mut self) -> Result<(), S3Error> {
        // In the order of the bytes, so that the answer does not depend on how they were cut.
        let ends = self.input.iter().take(MAX_STRAY + 1);
        let ends = ends.take_while(|b| matches!(b, b'\r' | b'\n')).count();
        self.stray_line_end(ends)?;
        if ends < self.input.len() {
            return Err(incomplete(
                "the body goes on behind its aws-chunked framing",
            ));
        }
        self.input.clear();
        Ok(())
    }

    fn stray_line_end(&mut self, bytes: usize) -> Result<(), S3Error> {
        self.stray += bytes;
        if self.stray > MAX_STRAY {
            return Err(malformed_trailer("The body ends in too many empty lines."));
        }
        Ok(())
    }
}

fn decoded_length(headers: &HeaderMap) -> Result<u64, S3Error> {
    const NAME: &str = "x-amz-decoded-content-length";
    let value = headers
        .get(NAME)
        .ok_or_else(|| S3Error::new(Code::MissingContentLength))?;
    let text = value.to_str().unwrap_or("").trim();
    if !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_digit())
        && let Ok(length) = text.parse()
    {
        return Ok(length);
    }
    let shown = String::from_utf8_lossy(value.as_bytes());
    Err(S3Error::invalid_argument(
        NAME,
        shown,
        "The decoded content length must be a non-negative number.",
    ))
}

fn chunk_size(digits: &[u8]) -> Result<u64, S3Error> {
    let bad = || {
        S3Error::new(Code::InvalidChunkSizeError)
            .message("A chunk's size is not a hexadecimal number.")
    };
    if digits.is_empty() {
        return Err(bad());
    }
    digits.iter().try_fold(0_u64, |size, byte| {
        let digit = char::from(*byte).to_digit(16).ok_or_else(bad)?;
        let shifted = size.checked_mul(16).ok_or_else(bad)?;
        Ok(shifted + u64::from(digit))
    })
}

fn incomplete(message: &'static str) -> S3Error {
    S3Error::new(Code::IncompleteBody).message(message)
}

fn malformed_trailer(message: impl Into<std::borrow::Cow<'static, str>>) -> S3Error {
    S3Error::new(Code::MalformedTrailerError).message(message)
}

#[cfg(test)]
#[path = "chunked_tests.rs"]
mod tests;
