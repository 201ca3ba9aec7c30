"""Requests written byte by byte: every form of aws-chunked, every way to break one, keys no client would send.

Whatever is refused leaves the old object as it was, and nothing beside it.
"""

import base64
import datetime
import hashlib
import os
import re
import socket
import types

import pytest
from lib import data, s3, server, wire

TARGET = "/bucket-one/dir/object"


@pytest.fixture
def raw(served, client, bucket, tree, random):
    """A daemon with one object that every refused request must leave alone."""
    old = random.bytes(5000)
    client.put_object(Bucket=bucket, Key="dir/object", Body=old, Metadata={"colour": "green"})
    return types.SimpleNamespace(daemon=served, client=client, bucket=bucket, tree=tree, old=old, directory=tree / bucket)


def untouched(raw):
    """The old object is there, whole, with its ETag and metadata; nothing else is."""
    got = raw.client.get_object(Bucket=raw.bucket, Key="dir/object")
    assert got["Body"].read() == raw.old
    assert got["ETag"].strip('"') == data.md5(raw.old)
    assert got["Metadata"] == {"colour": "green"}
    assert list(s3.listed(raw.client, raw.bucket)) == ["dir/object"]
    assert visible(raw) == ["dir/object"]


def visible(raw):
    """What a person sees in the bucket's directory."""
    return sorted(str(path.relative_to(raw.directory)) for path in raw.directory.rglob("*")
                  if path.is_file() and ".twintree" not in path.parts)


def put_framed(raw, signer, body, framed, payload, *, declared=None, decoded=None, trailer=None, wrap=False, more=()):
    """PUT of a framed body. `framed` is made after the head is signed, because its chain starts there."""
    headers = {"x-amz-decoded-content-length": str(len(body) if decoded is None else decoded), "content-encoding": "aws-chunked", **dict(more)}
    if trailer:
        headers["x-amz-trailer"] = trailer
    with wire.Connection(raw.daemon) as connection:
        every = signer.headers("PUT", TARGET, connection.host, headers, payload)
        whole = framed()
        if wrap:
            every["transfer-encoding"] = "chunked"
            whole = wire.http_chunks(whole)
        else:
            every["content-length"] = len(whole) if declared is None else declared
        connection.send("PUT", TARGET, every, whole)
        return connection.answer("PUT")


# Every form, whole.

SIZES = [0, 1, 8191, 65536, 200_001]


@pytest.mark.parametrize("wrap", [False, True], ids=["length", "http-chunked"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", ["signed", "signed-trailer", "unsigned-trailer"])
def test_every_chunked_form_stores_the_decoded_bytes(raw, random, form, size, wrap):
    body, signer = random.bytes(size), wire.Signer()
    trailer = ("x-amz-checksum-crc32", wire.crc32(body))
    if form == "signed":
        answer = put_framed(raw, signer, body, lambda: wire.signed_chunks(signer, body), wire.SIGNED_CHUNKS, wrap=wrap)
    elif form == "signed-trailer":
        answer = put_framed(raw, signer, body, lambda: wire.signed_chunks(signer, body, trailer=trailer),
                            wire.SIGNED_CHUNKS_TRAILER, trailer=trailer[0], wrap=wrap)
    else:
        answer = put_framed(raw, signer, body, lambda: wire.unsigned_chunks(body, trailer=trailer), wire.UNSIGNED_TRAILER,
                            trailer=trailer[0], wrap=wrap)
    assert answer.status == 200, answer
    assert answer.headers["etag"] == f'"{data.md5(body)}"'
    if form != "signed":
        assert answer.headers["x-amz-checksum-crc32"] == wire.crc32(body)
    assert (raw.directory / "dir" / "object").read_bytes() == body
    assert "aws-chunked" not in raw.client.head_object(Bucket=raw.bucket, Key="dir/object").get("ContentEncoding", "")


@pytest.mark.parametrize("encoding, kept", [("gzip,aws-chunked", "gzip"), ("aws-chunked, gzip", "gzip"), ("aws-chunked", None)])
def test_content_encoding_loses_only_its_aws_chunked(raw, random, encoding, kept):
    body, signer = random.bytes(1000), wire.Signer()
    answer = put_framed(raw, signer, body, lambda: wire.signed_chunks(signer, body), wire.SIGNED_CHUNKS, more={"content-encoding": encoding})
    assert answer.status == 200, answer
    assert raw.client.head_object(Bucket=raw.bucket, Key="dir/object").get("ContentEncoding") == kept


def test_a_plain_body_that_claims_to_be_chunked_is_stored_plain(raw, random):
    body = random.bytes(1000)
    with wire.Connection(raw.daemon) as connection:
        answer = connection.ask("PUT", TARGET, body, {"content-encoding": "aws-chunked"})
    assert answer.status == 200, answer
    assert (raw.directory / "dir" / "object").read_bytes() == body


# One flipped byte.

def flip(framed, at):
    """The same bytes, with one hexadecimal digit or data byte changed at `at`."""
    changed = bytearray(framed)
    old = changed[at]
    changed[at] = (ord("0") if old != ord("0") else ord("1")) if chr(old) in "0123456789abcdef" else old ^ 1
    return bytes(changed)


SIGNED_FLAWS = {
    "a data byte": lambda framed: flip(framed, framed.index(b"\r\n") + 100),
    "a byte of the last chunk": lambda framed: flip(framed, framed.rindex(b"\r\n0;") - 1),
    "the first chunk's signature": lambda framed: flip(framed, framed.index(b"signature=") + 12),
    "the last chunk's signature": lambda framed: flip(framed, framed.rindex(b"chunk-signature=") + 18),
}


@pytest.mark.parametrize("flaw", SIGNED_FLAWS)
@pytest.mark.parametrize("form", ["signed", "signed-trailer"])
def test_one_flipped_byte_in_a_signed_body_is_403(raw, random, form, flaw):
    body, signer = random.bytes(150_000), wire.Signer()
    trailer = ("x-amz-checksum-crc32", wire.crc32(body)) if form == "signed-trailer" else None
    answer = put_framed(raw, signer, body, lambda: SIGNED_FLAWS[flaw](wire.signed_chunks(signer, body, trailer=trailer)),
                        wire.SIGNED_CHUNKS_TRAILER if trailer else wire.SIGNED_CHUNKS, trailer=trailer and trailer[0])
    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch"), answer
    untouched(raw)


TRAILER_FLAWS = {
    "its value": lambda framed: flip(framed, framed.index(b"crc32:") + 7),
    "its signature": lambda framed: flip(framed, framed.index(b"trailer-signature:") + 20),
}


@pytest.mark.parametrize("flaw", TRAILER_FLAWS)
def test_one_flipped_byte_in_a_signed_trailer_is_403(raw, random, flaw):
    body, signer = random.bytes(100_000), wire.Signer()
    trailer = ("x-amz-checksum-crc32", wire.crc32(body))
    answer = put_framed(raw, signer, body, lambda: TRAILER_FLAWS[flaw](wire.signed_chunks(signer, body, trailer=trailer)),
                        wire.SIGNED_CHUNKS_TRAILER, trailer=trailer[0])
    assert (answer.status, answer.code) in ((403, "SignatureDoesNotMatch"), (400, "InvalidRequest")), answer
    untouched(raw)


def test_a_well_signed_trailer_with_the_wrong_checksum_is_a_bad_digest(raw, random):
    body, signer = random.bytes(100_000), wire.Signer()
    trailer = ("x-amz-checksum-crc32", wire.crc32(body + b"x"))
    answer = put_framed(raw, signer, body, lambda: wire.signed_chunks(signer, body, trailer=trailer), wire.SIGNED_CHUNKS_TRAILER, trailer=trailer[0])
    assert (answer.status, answer.code) == (400, "BadDigest"), answer
    untouched(raw)


def test_one_flipped_byte_under_an_unsigned_trailer_is_a_bad_digest(raw, random):
    body = random.bytes(100_000)
    trailer = ("x-amz-checksum-crc32", wire.crc32(body))
    answer = put_framed(raw, wire.Signer(), body, lambda: flip(wire.unsigned_chunks(body, trailer=trailer), 70_000), wire.UNSIGNED_TRAILER, trailer=trailer[0])
    assert (answer.status, answer.code) == (400, "BadDigest"), answer
    untouched(raw)


@pytest.mark.parametrize("value, code", [(wire.crc32(b"another body"), "BadDigest"), ("no base64!", "InvalidRequest"), ("AAAA", "InvalidRequest"), ("", "InvalidRequest")])
def test_a_wrong_or_malformed_unsigned_trailer_is_refused(raw, random, value, code):
    body = random.bytes(100_000)
    trailer = ("x-amz-checksum-crc32", value)
    answer = put_framed(raw, wire.Signer(), body, lambda: wire.unsigned_chunks(body, trailer=trailer), wire.UNSIGNED_TRAILER, trailer=trailer[0])
    assert (answer.status, answer.code) == (400, code), answer
    untouched(raw)


# Framing that does not say what the head said.

@pytest.mark.parametrize("off", [-1, 1, 1000, -50_000])
@pytest.mark.parametrize("form", ["signed", "unsigned-trailer"])
def test_a_wrong_decoded_length_is_an_incomplete_body(raw, random, form, off):
    body, signer = random.bytes(100_000), wire.Signer()
    if form == "signed":
        answer = put_framed(raw, signer, body, lambda: wire.signed_chunks(signer, body), wire.SIGNED_CHUNKS, decoded=len(body) + off)
    else:
        trailer = ("x-amz-checksum-crc32", wire.crc32(body))
        answer = put_framed(raw, signer, body, lambda: wire.unsigned_chunks(body, trailer=trailer), wire.UNSIGNED_TRAILER,
                            trailer=trailer[0], decoded=len(body) + off)
    assert (answer.status, answer.code) == (400, "IncompleteBody"), answer
    untouched(raw)


@pytest.mark.parametrize("cut", [1, 5, 90, 40_000])
def test_framing_that_ends_early_is_an_incomplete_body(raw, random, cut):
    body, signer = random.bytes(100_000), wire.Signer()
    answer = put_framed(raw, signer, body, lambda: wire.signed_chunks(signer, body)[:-cut], wire.SIGNED_CHUNKS)
    assert answer.status in (400, 403) and answer.code in ("IncompleteBody", "SignatureDoesNotMatch"), answer
    untouched(raw)


def test_a_declared_trailer_that_never_comes_is_refused(raw, random):
    body = random.bytes(1000)
    answer = put_framed(raw, wire.Signer(), body, lambda: wire.unsigned_chunks(body), wire.UNSIGNED_TRAILER, trailer="x-amz-checksum-crc32")
    assert (answer.status, answer.code) == (400, "MalformedTrailerError"), answer
    untouched(raw)


def test_a_trailer_that_is_no_checksum_is_refused(raw, random):
    body = random.bytes(1000)
    trailer = ("x-amz-meta-late", "value")
    answer = put_framed(raw, wire.Signer(), body, lambda: wire.unsigned_chunks(body, trailer=trailer), wire.UNSIGNED_TRAILER, trailer=trailer[0])
    assert (answer.status, answer.code) == (400, "InvalidRequest"), answer
    untouched(raw)


@pytest.mark.parametrize("junk", [b"xyz\r\n", b"-5\r\n", b"ffffffffffffffffff\r\n", b"5" + b";" * 70_000, b"\x00\x01\x02\r\n", b"10 \r\nshort"])
def test_a_chunk_head_of_junk_is_a_client_error(raw, random, junk):
    body = random.bytes(1000)
    answer = put_framed(raw, wire.Signer(), body, lambda: junk + random.bytes(100), wire.UNSIGNED_TRAILER, trailer="x-amz-checksum-crc32")
    assert 400 <= answer.status < 500 and answer.code, answer
    untouched(raw)


def test_the_elliptic_curve_forms_are_recognised_and_not_stored(raw, random):
    for payload in ("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER", "STREAMING-NONSENSE"):
        body = random.bytes(100)
        answer = put_framed(raw, wire.Signer(), body, lambda: wire.unsigned_chunks(body), payload)
        assert (answer.status, answer.code) in ((501, "NotImplemented"), (400, "InvalidRequest"), (400, "InvalidArgument")), answer
    untouched(raw)


# Digests in the head.

CHECKSUM_LENGTHS = {"crc32": 4, "crc32c": 4, "crc64nvme": 8, "sha1": 20, "sha256": 32}


@pytest.mark.parametrize("name", CHECKSUM_LENGTHS)
def test_a_wrong_checksum_header_is_a_bad_digest(raw, random, name):
    wrong = base64.b64encode(random.bytes(CHECKSUM_LENGTHS[name])).decode()
    with wire.Connection(raw.daemon) as connection:
        answer = connection.ask("PUT", TARGET, random.bytes(70_000), {f"x-amz-checksum-{name}": wrong})
        assert (answer.status, answer.code) == (400, "BadDigest"), answer
    untouched(raw)


@pytest.mark.parametrize("headers, code", [
    ({"content-md5": base64.b64encode(bytes(range(16))).decode()}, "BadDigest"),
    ({"content-md5": "short"}, "InvalidDigest"),
    ({"content-md5": ""}, "InvalidDigest"),
    ({"x-amz-checksum-crc32": "not base64"}, "InvalidRequest"),
    ({"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-sha1": "AAAAAAAAAAAAAAAAAAAAAAAAAAA="}, "InvalidRequest"),
    ({"x-amz-sdk-checksum-algorithm": "SHA256", "x-amz-checksum-crc32": "AAAAAA=="}, "InvalidRequest"),
])
def test_a_head_with_bad_digests_is_refused(raw, random, headers, code):
    with wire.Connection(raw.daemon) as connection:
        answer = connection.ask("PUT", TARGET, random.bytes(1000), headers)
    assert (answer.status, answer.code) == (400, code), answer
    untouched(raw)


def test_a_body_that_is_not_the_signed_one_is_refused(raw, random):
    with wire.Connection(raw.daemon) as connection:
        answer = connection.ask("PUT", TARGET, random.bytes(70_000), payload=hashlib.sha256(b"another").hexdigest())
    assert (answer.status, answer.code) == (400, "XAmzContentSHA256Mismatch"), answer
    untouched(raw)


# Who asks, and when.

@pytest.mark.parametrize("minutes", [-16, 16])
def test_a_skewed_clock_is_refused(raw, random, minutes):
    then = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=minutes)
    with wire.Connection(raw.daemon) as connection:
        answer = connection.ask("PUT", TARGET, random.bytes(10), signer=wire.Signer(when=then))
    assert (answer.status, answer.code) == (403, "RequestTimeTooSkewed"), answer
    untouched(raw)


@pytest.mark.parametrize("change, status, code", [
    ({"authorization": "AWS4-HMAC-SHA256 nonsense"}, 400, "AuthorizationHeaderMalformed"),
    ({"authorization": "Bearer abc"}, 400, None),
    ({"authorization": None}, 403, "AccessDenied"),
    ({"x-amz-content-sha256": None}, None, None),
    ({"x-amz-date": None}, 403, None),
    ({"x-amz-meta-unsigned": "smuggled"}, 403, "AccessDenied"),
    ({"x-amz-security-token": "unsigned"}, None, None),
])
def test_a_damaged_head_is_refused(raw, random, change, status, code):
    body = random.bytes(100)
    with wire.Connection(raw.daemon) as connection:
        headers = wire.Signer().headers("PUT", TARGET, connection.host, {}, hashlib.sha256(body).hexdigest())
        headers["content-length"] = len(body)
        for name, value in change.items():
            headers.pop(name, None)
            if value is not None:
                headers[name] = value
        connection.send("PUT", TARGET, headers, body)
        answer = connection.answer("PUT")
    assert answer.status in ((status,) if status else (400, 403)), answer
    assert answer.code == code or (code is None and answer.code), answer
    untouched(raw)


def test_header_and_query_credentials_together_are_refused(raw):
    with wire.Connection(raw.daemon) as connection:
        target = wire.Signer().presign("GET", TARGET, connection.host)
        answer = connection.ask("GET", target)
    assert answer.status == 400, answer


@pytest.mark.parametrize("change, code", [
    (("X-Amz-Expires=600", "X-Amz-Expires=604801"), "AuthorizationQueryParametersError"),
    (("X-Amz-Expires=600", "X-Amz-Expires=-1"), "AuthorizationQueryParametersError"),
    (("X-Amz-Expires=600", "X-Amz-Expires=x"), "AuthorizationQueryParametersError"),
    (("&X-Amz-SignedHeaders=host", ""), "AuthorizationQueryParametersError"),
])
def test_a_presigned_url_with_bad_parameters_is_refused(raw, change, code):
    with wire.Connection(raw.daemon) as connection:
        target = wire.Signer().presign("GET", TARGET, connection.host).replace(*change)
        connection.send("GET", target, {"host": connection.host})
        answer = connection.answer()
    assert (answer.status, answer.code) == (400, code), answer


@pytest.mark.parametrize("signed, key", [("prefix=a%2Bb", "a+b"), ("prefix=a%20b", "a b")])
@pytest.mark.parametrize("sent", ["as signed", "a plus"])
def test_a_parameter_means_what_was_signed_however_it_is_written(raw, signed, key, sent):
    """Both escapes verify when a raw plus was put for them; none becomes the other parameter by that."""
    for name in ("a+b", "a b"):
        raw.client.put_object(Bucket=raw.bucket, Key=name, Body=b"")
    with wire.Connection(raw.daemon) as connection:
        target = wire.Signer().presign("GET", f"/{raw.bucket}?{signed}", connection.host)
        if sent == "a plus":
            target = target.replace(signed, "prefix=a+b")
        connection.send("GET", target, {"host": connection.host})
        answer = connection.answer()
    assert answer.status == 200, answer
    assert re.findall(rb"<Key>(.*?)</Key>", answer.body) == [key.encode()]


# Bodies that stop half-way.

@pytest.mark.parametrize("form", ["length", "http-chunked", "aws-chunked"])
def test_a_body_that_stops_half_way_leaves_nothing(raw, random, form):
    body, signer = random.bytes(300_000), wire.Signer()
    connection = wire.Connection(raw.daemon)
    headers = {}
    payload = wire.UNSIGNED
    if form == "aws-chunked":
        headers, payload = {"x-amz-decoded-content-length": str(len(body))}, wire.SIGNED_CHUNKS
    every = signer.headers("PUT", TARGET, connection.host, headers, payload)
    whole = wire.signed_chunks(signer, body) if form == "aws-chunked" else body
    if form == "http-chunked":
        every["transfer-encoding"] = "chunked"
        whole = wire.http_chunks(whole)
    else:
        every["content-length"] = len(whole)
    connection.send("PUT", TARGET, every, whole[:150_000])
    connection.close()
    stage = raw.directory / ".twintree" / "stage"
    server.wait_until(lambda: not open_files(raw.daemon, raw.directory) and not (stage.exists() and any(stage.iterdir())),
                      "the daemon has let go of the half body")
    untouched(raw)


def open_files(daemon, directory):
    """Files below a directory that the daemon has open for writing (unnamed ones show as deleted)."""
    found = []
    for entry in os.scandir(f"/proc/{daemon.pid}/fd"):
        try:
            target = os.readlink(entry.path)
        except FileNotFoundError:
            continue
        if target.startswith(str(directory)) and target.endswith("(deleted)"):
            found.append(target)
    return found


def test_a_new_key_whose_body_stops_does_not_appear(raw, random):
    with wire.Connection(raw.daemon) as connection:
        every = wire.Signer().headers("PUT", "/bucket-one/new/key", connection.host, {}, wire.UNSIGNED)
        every["content-length"] = 100_000
        connection.send("PUT", "/bucket-one/new/key", every, random.bytes(50_000))
        connection.socket.shutdown(socket.SHUT_WR)
        try:
            answer = connection.answer("PUT")
            assert 400 <= answer.status < 500, answer
        except ConnectionError:
            pass  # a closed connection is an answer to a half body too
    untouched(raw)
    assert not (raw.directory / "new").exists()


def test_a_refused_head_is_answered_without_asking_for_the_body(raw):
    with wire.Connection(raw.daemon) as connection:
        every = wire.Signer(secret_key="wrong").headers("PUT", TARGET, connection.host, {}, wire.UNSIGNED)
        every |= {"content-length": 10_000_000, "expect": "100-continue"}
        connection.send("PUT", TARGET, every)
        line = connection.file.readline()
        assert line.startswith(b"HTTP/1.1 403 "), line
        assert len(line.split(None, 2)) == 3, "botocore needs a reason phrase"
    untouched(raw)


# Keys.

OUTSIDE = [
    "/bucket-one/../outside.txt", "/bucket-one/../../outside.txt", "/bucket-one/%2e%2e/outside.txt", "/bucket-one/a/../../outside.txt",
    "/bucket-one/..%2foutside.txt", "/bucket-one/%2e%2e%2f%2e%2e%2foutside.txt", "/bucket-one//outside.txt", "/bucket-one/./outside.txt",
    "/bucket-one/dir/../outside.txt", "/bucket-one/%2foutside.txt", "/bucket-one/..", "/bucket-one/.", "/bucket-one/../bucket-two/secret",
]


@pytest.mark.parametrize("target", OUTSIDE)
def test_keys_with_dots_stay_in_the_bucket_and_come_back(raw, random, target):
    (raw.tree / "outside.txt").write_bytes(b"not for S3")
    (raw.tree.parent / "outside.txt").write_bytes(b"not for S3")
    (raw.tree / "bucket-two").mkdir()
    (raw.tree / "bucket-two" / "secret").write_bytes(b"not through bucket-one")
    body = random.bytes(100)
    with wire.Connection(raw.daemon) as connection:
        before = connection.ask("GET", target)
        assert before.status in (400, 404), before
        put = connection.ask("PUT", target, body)
        assert put.status == 200 or 400 <= put.status < 500, put
        if put.status == 200:
            got = connection.ask("GET", target)
            assert (got.status, got.body) == (200, body)
            assert connection.ask("DELETE", target).status == 204
            assert connection.ask("GET", target).status == 404
    assert (raw.tree / "outside.txt").read_bytes() == b"not for S3"
    assert (raw.tree.parent / "outside.txt").read_bytes() == b"not for S3"
    assert (raw.tree / "bucket-two" / "secret").read_bytes() == b"not through bucket-one"
    assert not (raw.directory / "outside.txt").exists()
    untouched(raw)


def test_every_awkward_key_is_its_own_object(raw, random):
    keys = ["a", "a/b", "a/", "x//y", "x/", "/lead", "//", ".", "..", "./.", "a/../b", "a/./b", "n" * 256, "n" * 255, "p/" + "q" * 700 + "/r",
            "k" * 1024, "/" * 1024, "/" * 1023 + "x", "./" * 512, "\x01/" * 511 + "y", "tab\tkey", "new\nline", "%2e", "%00", "=f", "a=f/b", "\u00fc", "u\u0308", "\U0001f600/x", "back\\slash", "trailing ", " lead"]
    bodies = {key: b"" if key.endswith("/") else random.bytes(20) + key.encode() for key in keys}
    for key, body in bodies.items():
        raw.client.put_object(Bucket=raw.bucket, Key=key, Body=body)
    for key, body in bodies.items():
        assert s3.body(raw.client, raw.bucket, key) == body, key
        assert s3.etag(raw.client, raw.bucket, key) == data.md5(body), key
    found = list(s3.listed(raw.client, raw.bucket, PaginationConfig={"PageSize": 3}))
    assert found == sorted([*keys, "dir/object"], key=str.encode)
    for key in keys:
        raw.client.delete_object(Bucket=raw.bucket, Key=key)
    untouched(raw)


@pytest.mark.parametrize("target, status, code", [
    ("/bucket-one/" + "k" * 1025, 400, "KeyTooLongError"),
    ("/bucket-one/a%00b", 400, None),
    ("/bucket-one/%ff%fe", 400, "InvalidURI"),
    ("/bucket-one/.twintree/bucket.json", None, None),
    ("/bucket-one/.twintree", None, None),
    ("/bucket-one/.twintree/", None, None),
    ("/bucket-one/dir/.twintree/x", None, None),
    ("/bucket-one/lost+found/x", None, None),
    ("/.twintree/x", None, None),
    ("/Bad_Bucket/x", None, None),
])
def test_keys_that_cannot_be_are_client_errors(raw, random, target, status, code):
    for method, body in (("PUT", random.bytes(10)), ("GET", b""), ("HEAD", b""), ("DELETE", b"")):
        with wire.Connection(raw.daemon) as connection:
            answer = connection.ask(method, target, body)
        assert 400 <= answer.status < 500 or (method == "DELETE" and answer.status == 204), (method, answer)
        if status and method == "PUT":
            assert answer.status == status and (code is None or answer.code == code), answer
    untouched(raw)


# Recognised, not built: never the plain operation.

@pytest.mark.parametrize("method, query", [
    ("PUT", "annotation&annotationName=x"), ("DELETE", "annotation&annotationName=x"), ("PUT", "encryption"), ("PUT", "renameObject"),
    ("GET", "torrent"), ("POST", "restore"), ("POST", "select&select-type=2"), ("PUT", "legal-hold"), ("PUT", "retention"),
])
def test_a_sub_resource_that_is_not_built_never_falls_through(raw, random, method, query):
    with wire.Connection(raw.daemon) as connection:
        answer = connection.ask(method, f"{TARGET}?{query}", random.bytes(50) if method in ("PUT", "POST") else b"")
    assert 400 <= answer.status < 500 or answer.status == 501, answer
    untouched(raw)


def test_unknown_query_parameters_change_nothing(raw, random):
    body = random.bytes(100)
    with wire.Connection(raw.daemon) as connection:
        assert connection.ask("PUT", f"{TARGET}?x-id=PutObject", body).status == 200
        got = connection.ask("GET", f"{TARGET}?x-id=GetObject")
    assert got.body == body


# HTTP as it should not be.

@pytest.mark.parametrize("junk", [
    b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    b"PUT /bucket-one/dir/object HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"PUT /bucket-one/dir/object HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"PUT /bucket-one/dir/object HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"PUT /bucket-one/dir/object HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Many: y\r\n" * 20_000 + b"\r\n",
])
def test_broken_http_is_a_client_error_or_a_closed_connection(raw, junk):
    with wire.Connection(raw.daemon) as connection:
        try:
            connection.socket.sendall(junk)
            connection.socket.shutdown(socket.SHUT_WR)
            status = connection.answer().status
            assert 400 <= status < 500, status
        except (ConnectionError, BrokenPipeError, OSError) as closed:
            assert not isinstance(closed, TimeoutError), "it hangs"
    untouched(raw)


def test_a_connection_goes_on_after_errors(raw, random):
    body = random.bytes(1000)
    with wire.Connection(raw.daemon) as connection:
        assert connection.ask("GET", "/bucket-one/none").status == 404
        assert connection.ask("HEAD", "/bucket-one/none").status == 404
        assert connection.ask("DELETE", "/bucket-one/none").status == 204
        assert connection.ask("PUT", "/bucket-one/kept", body).status == 200
        assert connection.ask("GET", "/bucket-one/kept", headers={"range": "bytes=5000-"}).status == 416
        assert connection.ask("GET", "/bucket-one/kept").body == body


def test_targets_that_some_clients_send(raw):
    with wire.Connection(raw.daemon) as connection:
        assert b"<Name>bucket-one</Name>" in connection.ask("GET", "/").body
        assert b"<Name>bucket-one</Name>" in connection.ask("GET", "//").body
        assert connection.ask("HEAD", "/").status == 200
        signed = wire.Signer().headers("GET", TARGET, connection.host, {}, wire.EMPTY)
        connection.send("GET", f"http://{connection.host}{TARGET}", signed)
        assert connection.answer().body == raw.old


def test_every_reply_names_its_request(raw):
    with wire.Connection(raw.daemon) as connection:
        for method, target in (("GET", TARGET), ("GET", "/bucket-one/none"), ("HEAD", TARGET), ("GET", "/")):
            answer = connection.ask(method, target)
            assert answer.headers["x-amz-request-id"] and answer.headers["x-amz-id-2"] and answer.headers["date"], answer
            if answer.status == 404:
                assert answer.headers["content-type"] == "application/xml"
                assert answer.body.startswith(b"<?xml")
                assert answer.headers["x-amz-request-id"].encode() in answer.body


# Ranges and conditions, as written.

@pytest.mark.parametrize("value, expected", [
    ("bytes=0-9", (206, 0, 10)), ("bytes=00-01", (206, 0, 2)), ("bytes=4990-", (206, 4990, 5000)), ("bytes=4990-9999", (206, 4990, 5000)),
    ("bytes=-10", (206, 4990, 5000)), ("bytes=-9999", (206, 0, 5000)), ("bytes=0-0,1-2", (200, 0, 5000)), ("bytes=10-5", (200, 0, 5000)),
    ("bytes=abc", (200, 0, 5000)), ("foo=0-1", (200, 0, 5000)), ("bytes=--1", (200, 0, 5000)), ("bytes=5000-", (416, 0, 0)), ("bytes=-0", (416, 0, 0)),
])
def test_ranges(raw, value, expected):
    status, first, end = expected
    with wire.Connection(raw.daemon) as connection:
        answer = connection.ask("GET", TARGET, headers={"range": value})
        head = connection.ask("HEAD", TARGET, headers={"range": value})
    assert (answer.status, head.status) == (status, status), answer
    if status == 416:
        assert answer.code == "InvalidRange"
        assert answer.headers["content-range"] == "bytes */5000"
    else:
        assert answer.body == raw.old[first:end]
        assert answer.headers["content-length"] == head.headers["content-length"] == str(end - first)
        assert not any(name.startswith("x-amz-checksum-crc") for name in answer.headers), "a whole object's checksum on a part of it"


def test_compare_and_swap_by_hand(raw, random):
    new = random.bytes(10)
    with wire.Connection(raw.daemon) as connection:
        for headers, status, code in (
            ({"if-none-match": "*"}, 412, "PreconditionFailed"), ({"if-match": '"0123"'}, 412, "PreconditionFailed"),
            ({"if-none-match": f'"{data.md5(raw.old)}"'}, 412, "PreconditionFailed"),
        ):
            answer = connection.ask("PUT", TARGET, new, headers)
            assert (answer.status, answer.code) == (status, code), answer
            untouched(raw)
        answer = connection.ask("PUT", "/bucket-one/absent", new, {"if-match": '"0123"'})
        assert (answer.status, answer.code) == (404, "NoSuchKey"), answer
        assert connection.ask("DELETE", TARGET, headers={"if-match": '"0123"'}).status == 412
        untouched(raw)
        assert connection.ask("PUT", TARGET, new, {"if-match": data.md5(raw.old)}).status == 200
        assert connection.ask("GET", TARGET).body == new
