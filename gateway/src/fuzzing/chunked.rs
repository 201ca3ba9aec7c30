//! The aws-chunked decoder: how a body is cut into pieces changes nothing, what the reference frames comes
//! out as it went in, a changed byte is noticed where the framing is signed, and memory stays bounded.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::aws::{self, ACCESS_KEY, SCOPE, SECRET, TIMESTAMP};
use super::draw::Draw;
use crate::auth::chunked::{ChunkSigner, Decoder, Framing};
use crate::auth::signature::Scope;
use crate::auth::{Credentials, Secret};
use crate::error::Code;

type Decoded = (Vec<u8>, Vec<(String, String)>);

const SEED: &str = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
const TRAILER: &str = "x-amz-checksum-crc32";

/// The three framings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Unsigned,
    Signed,
    SignedWithTrailer,
}

/// A body that anybody sent, or one that the reference framed.
pub fn chunked(data: &[u8]) {
    let mut draw = Draw::new(data);
    let form = draw.pick(&[Form::Unsigned, Form::Signed, Form::SignedWithTrailer]);
    let trailer = form != Form::Signed && draw.flag();
    if draw.flag() {
        let length = draw.below(64);
        as_sent(form, &headers(length, trailer), &mut draw);
    } else {
        as_framed(form, trailer, &mut draw);
    }
}

fn as_sent(form: Form, headers: &HeaderMap, draw: &mut Draw<'_>) {
    let cut = 1 + draw.below(40);
    let body = draw.rest();
    let whole = decode(form, headers, body, body.len().max(1));
    assert_eq!(decode(form, headers, body, 1), whole);
    assert_eq!(decode(form, headers, body, cut), whole);
}

fn as_framed(form: Form, trailer: bool, draw: &mut Draw<'_>) {
    let cut = 1 + draw.below(40);
    let (at, with) = (draw.below(2048), draw.byte());
    let mut chunks = Vec::new();
    for _ in 0..draw.below(5) {
        chunks.push(draw.bytes(70));
    }
    chunks.retain(|chunk| !chunk.is_empty());
    let payload = chunks.concat();
    let value = aws::uri_encode(draw.bytes(10), "/+=");
    let trailers: Vec<_> = trailer
        .then(|| (TRAILER.to_owned(), value))
        .into_iter()
        .collect();
    let mut body = frame(form, &chunks, &trailers);
    let headers = headers(payload.len(), trailer);
    let expected = (payload, trailers);
    assert_eq!(decode(form, &headers, &body, cut).as_ref(), Ok(&expected));
    if form == Form::Unsigned {
        return;
    }
    if let Some(byte) = body.get_mut(at) {
        *byte = with;
    }
    let changed = decode(form, &headers, &body, cut);
    assert!(
        changed.is_err() || changed == Ok(expected),
        "a changed byte went unnoticed"
    );
}

/// Decodes a body in pieces of `cut` bytes; looks at the memory that is held after each.
fn decode(form: Form, headers: &HeaderMap, body: &[u8], cut: usize) -> Result<Decoded, Code> {
    let mut decoder = Decoder::new(framing(form), headers).map_err(|error| error.code())?;
    let mut data = Vec::new();
    for piece in body.chunks(cut) {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Some(slice) = decoder.next().map_err(|error| error.code())? {
            assert!(!slice.is_empty() && slice.len() <= piece.len());
            data.extend_from_slice(&slice);
        }
        assert!(decoder.held() <= Decoder::MOST_HELD);
    }
    let length = decoder.decoded_length();
    let trailers = decoder.finish().map_err(|error| error.code())?;
    assert_eq!(data.len() as u64, length);
    Ok((data, trailers))
}

fn framing(form: Form) -> Framing {
    if form == Form::Unsigned {
        return Framing::unsigned();
    }
    let credentials = Credentials::new([(ACCESS_KEY.to_owned(), Secret::new(SECRET))]);
    let credential = format!("{ACCESS_KEY}/{SCOPE}");
    let scope = Scope::parse(&credential).expect("a credential");
    let key = credentials.table().signing_key(&scope);
    let (key, _) = key.expect("the key is in the table");
    let signer = ChunkSigner::new(key, TIMESTAMP, SCOPE, SEED.to_owned());
    Framing::signed(signer, form == Form::SignedWithTrailer)
}

fn headers(length: usize, trailer: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-decoded-content-length", length.into());
    if trailer {
        headers.insert("x-amz-trailer", HeaderValue::from_static(TRAILER));
    }
    headers
}

/// The body as the page "Transferring Payload in Multiple Chunks" writes it.
fn frame(form: Form, chunks: &[&[u8]], trailers: &[(String, String)]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut previous = SEED.to_owned();
    for chunk in chunks.iter().copied().chain([&b""[..]]) {
        let mut line = format!("{:x}", chunk.len());
        if form != Form::Unsigned {
            let (empty, digest) = (aws::sha256(b""), aws::sha256(chunk));
            previous = aws::sign(&format!(
                "AWS4-HMAC-SHA256-PAYLOAD\n{TIMESTAMP}\n{SCOPE}\n{previous}\n{empty}\n{digest}"
            ));
            line.push_str(&format!(";chunk-signature={previous}"));
        }
        body.extend_from_slice(format!("{line}\r\n").as_bytes());
        body.extend_from_slice(chunk);
        if !chunk.is_empty() {
            body.extend_from_slice(b"\r\n");
        }
    }
    let mut canonical = String::new();
    for (name, value) in trailers {
        body.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
        canonical.push_str(&format!("{name}:{value}\n"));
    }
    if form == Form::SignedWithTrailer {
        let digest = aws::sha256(canonical.as_bytes());
        let signature = aws::sign(&format!(
            "AWS4-HMAC-SHA256-TRAILER\n{TIMESTAMP}\n{SCOPE}\n{previous}\n{digest}"
        ));
        body.extend_from_slice(format!("x-amz-trailer-signature:{signature}\r\n").as_bytes());
    }
    body.extend_from_slice(b"\r\n");
    body
}
