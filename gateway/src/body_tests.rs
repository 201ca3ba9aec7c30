//! Bodies in every form, into a file and into memory.

use std::collections::VecDeque;
use std::io::Read as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Frame;

use super::*;
use crate::auth::Framing;

/// A body of these pieces, which may end in an error.
struct Pieces(VecDeque<Result<Bytes, IncomingError>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        Poll::Ready(self.0.pop_front().map(|piece| piece.map(Frame::data)))
    }
}

fn pieces(bytes: &[u8], size: usize) -> Body {
    Body::new(Pieces(
        bytes
            .chunks(size)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect(),
    ))
}

fn head(headers: &[(&'static str, &str)]) -> Parts {
    let mut request = http::Request::put("/b/k");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("legal headers").into_parts().0
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(length)
    .collect()
}

fn temporary() -> Arc<File> {
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
    let descriptor = rustix::fs::open(
        std::env::temp_dir(),
        flags,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
    );
    Arc::new(File::from(
        descriptor.expect("the temporary directory takes unnamed files"),
    ))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
        .block_on(future)
}

fn open(body: Body, payload: Payload, head: &Parts) -> S3Result<ObjectBody> {
    ObjectBody::open(
        RequestBody::new(body, payload),
        head,
        ETagKind::Md5,
        5 << 30,
    )
}

fn code<T>(result: S3Result<T>) -> Code {
    result.err().expect("the body is refused").code()
}

const CHUNKED: (&str, &str) = ("transfer-encoding", "chunked");

#[test]
fn body_lands_in_the_file_at_its_offset_inline_and_on_the_pool() {
    let bytes = noise(3_000_017);
    for (remote, size) in [
        (false, 7),
        (false, 100_000),
        (true, 100_000),
        (true, 3_000_017),
    ] {
        let file = temporary();
        let sink = Sink {
            file: file.clone(),
            offset: 5,
            room: Room::default(),
            remote,
            synced: true,
            guard: None,
        };
        let body =
            open(pieces(&bytes, size), Payload::Unsigned, &head(&[CHUNKED])).expect("a legal head");
        let received = run(body.receive(sink)).expect("the body is whole");
        assert_eq!(received.digests.length, bytes.len() as u64);
        let mut written = Vec::new();
        (&*file)
            .read_to_end(&mut written)
            .expect("the file is readable");
        assert!(
            written[..5] == [0; 5] && written[5..] == bytes[..],
            "remote {remote}, pieces of {size}"
        );
    }
}

#[test]
fn framing_comes_off_and_the_trailer_is_verified() {
    let bytes = noise(700_000);
    let checks = |value: &str| {
        let mut framed = Vec::new();
        for chunk in bytes.chunks(65_536) {
            framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            framed.extend_from_slice(chunk);
            framed.extend_from_slice(b"\r\n");
        }
        framed
            .extend_from_slice(format!("0\r\nx-amz-checksum-crc64nvme:{value}\r\n\r\n").as_bytes());
        let head = head(&[
            ("x-amz-decoded-content-length", "700000"),
            ("x-amz-trailer", "x-amz-checksum-crc64nvme"),
        ]);
        let body = open(
            pieces(&framed, 999),
            Payload::Chunked(Framing::unsigned()),
            &head,
        )
        .expect("a legal head");
        assert_eq!(body.length(), Some(700_000));
        run(body.collect())
    };
    let mut digester = Digester::new(&[]);
    digester.update(&bytes);
    let crc = Checksum {
        algorithm: Algorithm::Crc64Nvme,
        value: digester.finish().crc64.to_be_bytes().to_vec(),
    };
    let (received, found) = checks(&crate::checksum::encode(&crc)).expect("the body is whole");
    assert_eq!(received.concat(), bytes);
    assert_eq!(found.checksum, Some(crc));
    assert_eq!(code(checks("AAAAAAAAAAA=")), Code::BadDigest);
}

#[test]
fn the_md5_is_left_out_where_neither_the_etag_nor_the_client_asks_for_it() {
    let bytes = noise(700_000);
    let md5 = "XUFAKrxLKna5cZ2REBfFkg==";
    for (etag, sent, computed) in [
        (ETagKind::Md5, &[CHUNKED][..], true),
        (ETagKind::Crc64, &[CHUNKED], false),
        (ETagKind::Crc64, &[CHUNKED, ("content-md5", md5)], true),
    ] {
        for length in [5, bytes.len()] {
            let body = RequestBody::new(pieces(&bytes[..length], 99_999), Payload::Unsigned);
            let body = ObjectBody::open(body, &head(sent), etag, 5 << 30).expect("a legal head");
            let received = run(body.collect());
            match sent.len() {
                1 => {
                    let (_, received) = received.expect("the body is whole");
                    assert_eq!(received.digests.md5.is_some(), computed, "{etag:?}");
                }
                _ => assert_eq!(code(received), Code::BadDigest, "compared with {md5}"),
            }
        }
    }
}

#[test]
fn payload_hash_is_verified() {
    let digest = ring::digest::digest(&ring::digest::SHA256, b"hello");
    let expected = digest.as_ref().try_into().expect("32 bytes");
    for (body, ok) in [(&b"hello"[..], true), (b"hellp", false)] {
        let body = open(
            pieces(body, 2),
            Payload::Sha256(expected),
            &head(&[CHUNKED]),
        )
        .expect("a legal head");
        match run(body.collect()) {
            Ok(_) => assert!(ok),
            Err(error) => assert_eq!((ok, error.code()), (false, Code::XAmzContentSHA256Mismatch)),
        }
    }
}

#[test]
fn broken_bodies_are_told_apart_and_close_the_connection() {
    let idle = Body::new(Pieces(
        [
            Ok(Bytes::from_static(b"x")),
            Err(IncomingError::Idle(Duration::from_secs(1))),
        ]
        .into(),
    ));
    let error = run(open(idle, Payload::Unsigned, &head(&[CHUNKED]))
        .expect("a legal head")
        .collect());
    let error = error.expect_err("the body stopped");
    assert!(error.code() == Code::RequestTimeout && error.closes());
    let cut = pieces(b"5\r\nhel", 3);
    let head = head(&[("x-amz-decoded-content-length", "5")]);
    let body = open(cut, Payload::Chunked(Framing::unsigned()), &head).expect("a legal head");
    assert_eq!(code(run(body.collect())), Code::IncompleteBody);
}

#[test]
fn lengths_are_limited_before_and_while_receiving() {
    let limited = |body, head: &Parts| {
        ObjectBody::open(
            RequestBody::new(body, Payload::Unsigned),
            head,
            ETagKind::Md5,
            10,
        )
    };
    assert_eq!(
        code(limited(
            Body::from("elevenbytes"),
            &head(&[("content-length", "11")])
        )),
        Code::EntityTooLarge
    );
    let unknown = limited(pieces(&[0; 30], 8), &head(&[CHUNKED])).expect("the length is not known");
    assert_eq!(code(run(unknown.collect())), Code::EntityTooLarge);
    assert_eq!(
        code(limited(Body::empty(), &head(&[]))),
        Code::MissingContentLength
    );
    let framed = head(&[("x-amz-decoded-content-length", "11")]);
    let body = RequestBody::new(Body::empty(), Payload::Chunked(Framing::unsigned()));
    assert_eq!(
        code(ObjectBody::open(body, &framed, ETagKind::Md5, 10)),
        Code::EntityTooLarge
    );
}

#[test]
fn one_byte_per_piece_stays_within_a_batch_of_few_slices() {
    let mut batch = Batch::default();
    for n in 0..10_000 {
        batch.push(Bytes::copy_from_slice(&[n as u8]));
    }
    let slices = batch.finish().expect("there are bytes");
    assert_eq!((slices.len(), slices[0].len()), (1, 10_000));
}

#[test]
fn documents_are_limited_and_verified() {
    let document = |body: Body, headers: &[(&'static str, &str)]| {
        let head = head(headers);
        run(RequestBody::new(body, Payload::Unsigned).into_document(&head.headers, 10))
    };
    assert_eq!(
        document(
            pieces(b"123456789", 4),
            &[("x-amz-checksum-crc32", "y/Q5Jg==")]
        )
        .expect("it fits"),
        "123456789"
    );
    assert_eq!(
        code(document(
            pieces(b"123456789", 4),
            &[("x-amz-checksum-crc32", "AAAAAA==")]
        )),
        Code::BadDigest
    );
    assert_eq!(
        code(document(pieces(b"12345678901", 4), &[])),
        Code::MaxMessageLengthExceeded
    );
    assert_eq!(
        code(document(Body::from("12345678901"), &[])),
        Code::MaxMessageLengthExceeded
    );
    let chunked = RequestBody::new(Body::empty(), Payload::Chunked(Framing::unsigned()));
    assert_eq!(
        code(run(chunked.into_document(&HeaderMap::new(), 10))),
        Code::InvalidRequest
    );
}
