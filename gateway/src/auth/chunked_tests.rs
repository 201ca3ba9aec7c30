//! The published chunk signatures, each byte flipped, each boundary split.

use http::Method;
use proptest::prelude::*;

use super::super::tests::{Request, authorization};
use super::super::{Payload, canonical};
use super::*;

const LENGTH: usize = 66_560;

/// One published example: its framing, verified from its head, and its body.
struct Example {
    framing: Framing,
    headers: HeaderMap,
    body: Vec<u8>,
}

fn example(trailer: bool) -> Example {
    let (seed, chunks) = if trailer {
        (
            "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
            [
                "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
                "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
                "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
            ],
        )
    } else {
        (
            "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
            [
                "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
                "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
                "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
            ],
        )
    };
    let mut headers = vec![
        ("host", "s3.amazonaws.com"),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
    ];
    let signed = if trailer {
        headers.push((
            "x-amz-content-sha256",
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        ));
        headers.push(("x-amz-trailer", "x-amz-checksum-crc32c"));
        "content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;x-amz-trailer"
    } else {
        headers.push(("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"));
        headers.push(("content-length", "66824"));
        "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class"
    };
    let authorization = authorization("us-east-1", signed, seed);
    headers.push(("authorization", &authorization));
    let request = Request::new(Method::PUT, "/examplebucket/chunkObject.txt", &headers);
    let verified = request.verify().expect("the published seed verifies");
    let Payload::Chunked(framing) = verified.payload else {
        panic!("the payload is chunked")
    };
    let mut body = Vec::new();
    for (size, signature) in [65_536, 1024, 0].into_iter().zip(chunks) {
        body.extend_from_slice(format!("{size:x};chunk-signature={signature}\r\n").as_bytes());
        body.resize(body.len() + size, b'a');
        if size > 0 {
            body.extend_from_slice(b"\r\n");
        }
    }
    if trailer {
        body.extend_from_slice(
            b"x-amz-checksum-crc32c:sOO8/Q==\r\n\
              x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n",
        );
    } else {
        assert_eq!(body.len() + 2, 66_824, "the published Content-Length");
    }
    body.extend_from_slice(b"\r\n");
    Example {
        framing,
        headers: request.headers,
        body,
    }
}

fn unsigned_headers(length: usize, trailer: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-decoded-content-length", length.into());
    if let Some(name) = trailer {
        headers.insert("x-amz-trailer", name.parse().expect("a legal value"));
    }
    headers
}

type Decoded = (Vec<u8>, Vec<(String, String)>);

fn decode(
    framing: &Framing,
    headers: &HeaderMap,
    pieces: impl IntoIterator<Item = Bytes>,
) -> Result<Decoded, S3Error> {
    let mut decoder = Decoder::new(framing.clone(), headers)?;
    let mut data = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        while let Some(slice) = decoder.next()? {
            data.extend_from_slice(&slice);
        }
    }
    Ok((data, decoder.finish()?))
}

fn whole(example: &Example) -> Result<Decoded, S3Error> {
    decode(
        &example.framing,
        &example.headers,
        [Bytes::copy_from_slice(&example.body)],
    )
}

fn unsigned(body: &str, length: usize, trailer: Option<&str>) -> Result<Decoded, S3Error> {
    let piece = Bytes::copy_from_slice(body.as_bytes());
    decode(
        &Framing::unsigned(),
        &unsigned_headers(length, trailer),
        [piece],
    )
}

fn code(result: Result<Decoded, S3Error>) -> Code {
    result
        .map(|(data, trailers)| (data.len(), trailers))
        .expect_err("the body is refused")
        .code()
}

#[test]
fn published_examples_verify() {
    let (data, trailers) = whole(&example(false)).expect("signed chunks");
    assert_eq!(data, vec![b'a'; LENGTH]);
    assert!(trailers.is_empty());
    let (data, trailers) = whole(&example(true)).expect("signed chunks and trailer");
    assert_eq!(data, vec![b'a'; LENGTH]);
    assert_eq!(
        trailers,
        [("x-amz-checksum-crc32c".to_owned(), "sOO8/Q==".to_owned())]
    );
}

#[test]
fn line_ends_of_minio_go_verify() {
    let mut example = example(true);
    let text = b"sOO8/Q==\r\n";
    let at = example
        .body
        .windows(text.len())
        .position(|w| w == text)
        .expect("the checksum is there");
    example.body.splice(at..at + text.len(), *b"sOO8/Q==\n\r\n");
    whole(&example).expect("a bare line feed and an empty line before the signature");
}

#[test]
fn every_flipped_byte_of_framing_and_some_of_data_are_refused() {
    for trailer in [false, true] {
        let example = example(trailer);
        let framing = example
            .body
            .iter()
            .enumerate()
            .filter(|(at, byte)| **byte != b'a' || at % 9973 == 0);
        let positions: Vec<usize> = framing.map(|(at, _)| at).collect();
        for at in positions {
            let mut spoiled = example.body.clone();
            // Case does not matter in hex and header names; the lowest bit always does.
            spoiled[at] ^= 1;
            let result = decode(&example.framing, &example.headers, [Bytes::from(spoiled)]);
            let Err(error) = result else {
                panic!("flipped byte {at} is accepted")
            };
            assert!(error.status().is_client_error(), "byte {at}: {error}");
        }
        let mut spoiled = example.body.clone();
        spoiled[100] ^= 1;
        let flipped = decode(&example.framing, &example.headers, [Bytes::from(spoiled)]);
        assert_eq!(code(flipped), Code::SignatureDoesNotMatch);
    }
}

#[test]
fn every_truncation_is_refused() {
    for trailer in [false, true] {
        let example = example(trailer);
        let tail = example.body.len() - 400;
        for end in [0, 1, 50, 86, 87, 1000, 65_623, 65_624]
            .into_iter()
            .chain(tail..example.body.len())
        {
            let cut = Bytes::copy_from_slice(&example.body[..end]);
            let result = decode(&example.framing, &example.headers, [cut]);
            assert_eq!(code(result), Code::IncompleteBody, "cut at {end}");
        }
    }
}

#[test]
fn signatures_chain_so_that_chunks_cannot_change_places() {
    let example = example(false);
    let first = 65_536 + 87 + 2 + 1;
    let mut swapped = example.body[first - 1..first - 1 + 1024 + 85 + 2].to_vec();
    swapped.extend_from_slice(&example.body);
    let result = decode(&example.framing, &example.headers, [Bytes::from(swapped)]);
    assert!(result.is_err());
}

#[test]
fn unsigned_trailer_form_of_boto3() {
    let body = "5\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n";
    let (data, trailers) =
        unsigned(body, 11, Some("x-amz-checksum-crc32")).expect("two chunks and a trailer");
    assert_eq!(data, b"hello world");
    assert_eq!(
        trailers,
        [("x-amz-checksum-crc32".to_owned(), "DUoRhQ==".to_owned())]
    );
    let empty = "0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";
    assert!(unsigned(empty, 0, Some("X-Amz-Checksum-Crc32")).is_ok());
    assert!(unsigned("0\r\n\r\n", 0, None).is_ok());
    assert!(unsigned("5;ext=1\r\nhello\r\n0\r\n\r\n\r\n", 5, None).is_ok());
}

#[test]
fn broken_framing_is_refused() {
    let crc = Some("x-amz-checksum-crc32");
    for (body, length, trailer, expected) in [
        ("0\r\n\r\n", 0, crc, Code::MalformedTrailerError),
        (
            "0\r\nx-amz-checksum-sha1:x\r\n\r\n",
            0,
            crc,
            Code::MalformedTrailerError,
        ),
        (
            "0\r\nx-amz-checksum-crc32:x\r\n\r\n",
            0,
            None,
            Code::MalformedTrailerError,
        ),
        (
            "0\r\nx-amz-checksum-crc32\r\n\r\n",
            0,
            crc,
            Code::MalformedTrailerError,
        ),
        (
            "0\r\nx-amz-checksum-crc32:x\r\nx-amz-checksum-crc32:x\r\n\r\n",
            0,
            crc,
            Code::MalformedTrailerError,
        ),
        ("5\r\nhello\r\n0\r\n\r\n", 4, None, Code::IncompleteBody),
        ("5\r\nhello\r\n0\r\n\r\n", 6, None, Code::IncompleteBody),
        ("5\r\nhello!\r\n0\r\n\r\n", 5, None, Code::IncompleteBody),
        ("5\nhello\r\n0\r\n\r\n", 5, None, Code::IncompleteBody),
        ("0\r\n\r\nmore", 0, None, Code::IncompleteBody),
        (
            "\r\nhello\r\n0\r\n\r\n",
            5,
            None,
            Code::InvalidChunkSizeError,
        ),
        (
            "-5\r\nhello\r\n0\r\n\r\n",
            5,
            None,
            Code::InvalidChunkSizeError,
        ),
        (
            "11111111111111111\r\nhello",
            5,
            None,
            Code::InvalidChunkSizeError,
        ),
        ("ffffffffffffffff\r\nhello", 5, None, Code::IncompleteBody),
        (
            "4\r\nhell\r\nffffffffffffffff\r\nhello",
            5,
            None,
            Code::IncompleteBody,
        ),
    ] {
        assert_eq!(code(unsigned(body, length, trailer)), expected, "{body:?}");
    }
    let long = format!("0\r\nx-amz-checksum-crc32:{}\r\n\r\n", "x".repeat(MAX_LINE));
    assert_eq!(code(unsigned(&long, 0, crc)), Code::MalformedTrailerError);
    let long = format!("0;{}\r\n\r\n", "x".repeat(MAX_LINE));
    assert_eq!(code(unsigned(&long, 0, None)), Code::IncompleteBody);
    let endless = "\r\n".repeat(50);
    assert!(unsigned(&format!("0\r\n\r\n{endless}"), 0, None).is_err());
}

#[test]
fn decoded_length_is_required_and_a_number() {
    let none = Decoder::new(Framing::unsigned(), &HeaderMap::new())
        .err()
        .expect("it is missing");
    assert_eq!(none.code(), Code::MissingContentLength);
    for bad in ["", "-1", "+1", "1e3", "99999999999999999999"] {
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-amz-decoded-content-length",
            bad.parse().expect("a legal value"),
        );
        let error = Decoder::new(Framing::unsigned(), &headers)
            .err()
            .expect("it is no number");
        assert_eq!(error.code(), Code::InvalidArgument, "{bad}");
    }
}

#[test]
fn signed_form_without_its_signatures_is_refused() {
    let example = example(true);
    let bare = Bytes::from_static(b"0\r\n\r\n");
    assert_eq!(
        code(decode(&example.framing, &example.headers, [bare])),
        Code::SignatureDoesNotMatch
    );
    let body = canonical::hex(b"");
    assert!(body.is_empty());
    let at = example.body.len() - 2 - "x-amz-trailer-signature:".len() - 64 - 2;
    let mut unsigned = example.body[..at].to_vec();
    unsigned.extend_from_slice(b"\r\n");
    let result = decode(&example.framing, &example.headers, [Bytes::from(unsigned)]);
    assert!(result.is_err(), "the trailer's signature is required");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn splits_do_not_matter(trailer: bool, cuts in prop::collection::vec(0.0..1.0_f64, 0..40), near in any::<bool>()) {
        let example = example(trailer);
        let length = example.body.len();
        // Half of the cases cut within the last 400 bytes, where the lines are.
        let mut at: Vec<usize> = cuts
            .iter()
            .map(|cut| if near { length - 400 + (cut * 400.0) as usize } else { (cut * length as f64) as usize })
            .collect();
        at.extend([0, length]);
        at.sort_unstable();
        let body = Bytes::from(example.body.clone());
        let pieces: Vec<Bytes> = at.windows(2).map(|w| body.slice(w[0]..w[1])).collect();
        let (data, trailers) = decode(&example.framing, &example.headers, pieces).expect("the same body");
        prop_assert_eq!(data.len(), LENGTH);
        prop_assert_eq!(trailers.len(), usize::from(trailer));
    }

    #[test]
    fn no_body_makes_it_panic(body in prop::collection::vec(prop_oneof![
        Just(b'0'), Just(b'5'), Just(b'f'), Just(b'\r'), Just(b'\n'), Just(b';'), Just(b':'), any::<u8>()
    ], 0..200), length in 0_usize..20) {
        let _ = decode(&Framing::unsigned(), &unsigned_headers(length, None), [Bytes::from(body)]); // any answer will do
    }
}
