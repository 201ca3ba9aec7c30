"""Bytes that no client sends, over raw sockets: each gets its exact answer or a closed connection, nothing of a body is
ever run as a request, and the server serves on.

Where HTTP itself is broken the answer is S3's as well: a document, an id and a line in the log, before the HTTP library sees a byte.
"""

import hashlib
import re
import select
import socket
import ssl

import pytest
from lib import data, http2, s3, server, wire
from lib.hostile import MIB, SMUGGLED, TARGET, Joined, begin, exchange, outcomes, request, serves_on, smuggled


@pytest.fixture(scope="session")
def place(tmp_path_factory, authority):
    """Daemons with the usual limits."""
    place = begin(tmp_path_factory, "patient", authority)
    yield place
    place.plain.stop()
    place.secure.stop()


@pytest.fixture(scope="session")
def hasty(tmp_path_factory, authority):
    """Daemons with short ones."""
    place = begin(tmp_path_factory, "hasty", authority, "--header-timeout", "1s", "--body-timeout", "1s")
    yield place
    place.plain.stop()
    place.secure.stop()


# How long a body is, said in two ways or in none.

REFUSED = [(400, "BadRequest")]
TOO_LARGE = (400, "RequestHeaderSectionTooLarge")
FRAMINGS = {
    "two lengths": (["content-length: 5", "content-length: 6"], REFUSED),
    "a list of lengths": (["content-length: 5, 5"], REFUSED),
    "a signed length": (["content-length: +5"], REFUSED),
    "a negative length": (["content-length: -5"], REFUSED),
    "a hexadecimal length": (["content-length: 0x5"], REFUSED),
    "an empty length": (["content-length:"], REFUSED),
    "a length of 2^64": (["content-length: 18446744073709551616"], REFUSED),
    "a length of 2^64-1": (["content-length: 18446744073709551615"], REFUSED),
    "a length in a folded line": (["content-length:", " 5"], REFUSED),
    "a folded line": (["x-folded: a", "\tb", "content-length: 5"], REFUSED),
    "a space before the colon": (["content-length : 5"], REFUSED),
    "a bare CR": (["x-cr: a\rcontent-length: 5"], REFUSED),
    "a bare CR that hides a coding": (["x-cr: a\rtransfer-encoding: chunked", "content-length: 5"], REFUSED),
    "a NUL": (["x-nul: a\0b", "content-length: 5"], REFUSED),
    "an unknown coding": (["transfer-encoding: identity", "content-length: 5"], REFUSED),
    "chunked, and then another": (["transfer-encoding: chunked, identity"], REFUSED),
    "another, and then chunked": (["transfer-encoding: identity, chunked"], [(501, "NotImplemented")]),
    "gzip, and then chunked": (["transfer-encoding: gzip, chunked"], [(501, "NotImplemented")]),
    "chunked twice": (["transfer-encoding: chunked", "transfer-encoding: chunked"], [(501, "NotImplemented")]),
    "chunked with a parameter": (["transfer-encoding: chunked;q=1"], REFUSED),
    "chunked in quotes": (['transfer-encoding: "chunked"'], REFUSED),
    "chunked behind a vertical tab": (["transfer-encoding: \x0bchunked"], REFUSED),
}


@pytest.mark.parametrize("body", [b"5\r\nabcde\r\n0\r\n\r\n", b"abcde"], ids=["chunked", "plain"])
@pytest.mark.parametrize("flaw", FRAMINGS)
def test_a_length_that_can_be_read_in_two_ways_is_refused_and_ends_the_connection(place, flaw, body):
    lines, expected = FRAMINGS[flaw]
    answers = exchange(place, request(place, "PUT", TARGET, lines) + body + smuggled(place))
    assert outcomes(answers) == expected, answers
    assert answers[-1].headers["connection"] == "close"
    serves_on(place)


BOTH = {
    "the length first": ["content-length: 5", "transfer-encoding: chunked"],
    "the coding first": ["transfer-encoding: chunked", "content-length: 5"],
    "in capitals, far apart": ["CONTENT-LENGTH: 5", *["x-between: y"] * 200, "TRANSFER-ENCODING: CHUNKED"],
    "in mixed case, without blanks": ["Transfer-encoding:gzip,chunked", "cOnTeNt-LeNgTh:0"],
    "a coding that is none": ["transfer-encoding: identity", "content-length: 5"],
}


@pytest.mark.parametrize("secure", [False, True], ids=["http", "tls"])
@pytest.mark.parametrize("pieces", ["at once", "byte by byte", "behind another"])
@pytest.mark.parametrize("flaw", BOTH)
def test_a_length_beside_a_coding_is_refused_and_nothing_behind_it_is_run(place, flaw, pieces, secure):
    with wire.Connection(place.secure if secure else place.plain, ca=place.ca if secure else None) as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = request(place, "PUT", TARGET, BOTH[flaw], host=connection.host)
        rest = b"0\r\n\r\n" + request(place, "PUT", SMUGGLED, ["content-length: 0"], host=connection.host)
        if pieces == "behind another":
            head = request(place, "PUT", TARGET, ["transfer-encoding: chunked"], host=connection.host) + wire.http_chunks(place.old, 999) + head
        if pieces == "byte by byte":
            for at in range(len(head)):
                connection.socket.send(head[at:at + 1])
            connection.socket.sendall(rest)
        else:
            connection.socket.sendall(head + rest)
        if pieces == "behind another":
            assert connection.answer("PUT").status == 200
        answer = connection.answer("PUT")
        assert (answer.status, answer.code, answer.headers["connection"]) == (400, "BadRequest", "close"), answer
        assert b"not both" in answer.body
        with pytest.raises(ConnectionError):
            connection.answer()
    serves_on(place)


def test_a_refused_head_has_an_id_in_its_document_and_a_line_in_the_log(place):
    for method, lines, code in [("PUT", BOTH["the length first"], "BadRequest"), ("GET", ["no colon"], "BadRequest"), ("GET", ["x-many: y"] * 300, TOO_LARGE[1])]:
        [answer] = exchange(place, request(place, method, TARGET, lines))
        named = answer.headers["x-amz-request-id"]
        assert f"<RequestId>{named}</RequestId>".encode() in answer.body and f"<Resource>{TARGET}</Resource>".encode() in answer.body, answer
        [line] = [line for line in place.plain.log.read_text().splitlines() if named in line]
        assert re.search(rf"method=\"?{method}\b", line) and re.search(r"status=400\b", line) and code in line, line
    [answer] = exchange(place, request(place, "HEAD", TARGET, BOTH["the length first"]), ["HEAD"])
    assert (answer.status, answer.body) == (400, b"")


def test_http_1_0_has_no_chunked(place):
    sent = request(place, "PUT", TARGET, ["transfer-encoding: chunked"], version="HTTP/1.0")
    assert outcomes(exchange(place, sent + b"5\r\nabcde\r\n0\r\n\r\n" + smuggled(place))) == REFUSED
    serves_on(place)


@pytest.mark.parametrize("lines", [["content-length: 5000", "content-length: 5000"], [b"x-lf: a\ncontent-length: 5000"], ["transfer_encoding: chunked", "content-length: 5000"],
                                   ["content-length: 05000"]], ids=["the same length twice", "a bare LF", "an underscore", "a leading zero"])
def test_what_can_be_read_in_one_way_only_is_read_so_and_stays_in_step(place, lines):
    sent = request(place, "PUT", TARGET, lines) + place.old + request(place, "GET", TARGET, ["connection: close"])
    answers = exchange(place, sent, ["PUT", "GET"])
    assert outcomes(answers) == [(200, None), (200, None)] and answers[1].body == place.old, answers
    serves_on(place)


# Chunks with wrong sizes.

CHUNKS = {
    "more than there is": b"10\r\nabcde\r\n0\r\n\r\n",
    "less than there is": b"2\r\nabcde\r\n0\r\n\r\n",
    "negative": b"-5\r\nabcde\r\n0\r\n\r\n",
    "with a plus": b"+5\r\nabcde\r\n0\r\n\r\n",
    "with 0x": b"0x5\r\nabcde\r\n0\r\n\r\n",
    "no number": b"zz\r\nabcde\r\n0\r\n\r\n",
    "more than 64 bits": b"ffffffffffffffff1\r\nabcde\r\n0\r\n\r\n",
    "all of 64 bits": b"ffffffffffffffff\r\nabcde\r\n0\r\n\r\n",
    "wraps to 5 in 64 bits": b"10000000000000005\r\nabcde\r\n0\r\n\r\n",
    "empty": b"\r\nabcde\r\n0\r\n\r\n",
    "behind a space": b" 5\r\nabcde\r\n0\r\n\r\n",
    "ended by LF": b"5\nabcde\n0\n\n",
    "no line end behind the bytes": b"5\r\nabcde0\r\n\r\n",
    "LF in an extension": b"5;a=b\nabcde\r\n0\r\n\r\n",
    "CR in an extension": b"5;a=b\rc\r\nabcde\r\n0\r\n\r\n",
    "an extension of 100 KiB": b"5;a=" + b"x" * 100_000 + b"\r\nabcde\r\n0\r\n\r\n",
    "extensions of 100 KiB together": b"1;a=bcdefghijklmnopqrstuvwxyz\r\na\r\n" * 3000 + b"0\r\n\r\n",
    "a trailer of 100 KiB": b"5\r\nabcde\r\n0\r\nx-a: " + b"x" * 100_000 + b"\r\n\r\n",
    "2,000 trailers": b"5\r\nabcde\r\n0\r\n" + b"x-a: b\r\n" * 2000 + b"\r\n",
    "no end": b"5\r\nabcde\r\n",
}


@pytest.mark.parametrize("flaw", CHUNKS)
def test_a_chunk_of_the_wrong_size_is_an_incomplete_body_and_ends_the_connection(place, flaw):
    rest = b"" if flaw == "no end" else smuggled(place)
    answers = exchange(place, request(place, "PUT", TARGET, ["transfer-encoding: chunked"]) + CHUNKS[flaw] + rest, ends=flaw in ("no end", "all of 64 bits"))
    assert outcomes(answers) == [(400, "IncompleteBody")], answers
    assert answers[0].headers["connection"] == "close"
    serves_on(place)


def test_what_follows_the_last_chunk_is_the_next_request_and_junk_there_ends_the_connection(place):
    whole = request(place, "PUT", TARGET, ["transfer-encoding: chunked"]) + wire.http_chunks(place.old, 999)
    answers = exchange(place, whole + b"JUNK\r\n\r\n" + smuggled(place), ["PUT", "GET"])
    assert outcomes(answers) == [(200, None), *REFUSED], answers
    answers = exchange(place, whole + request(place, "GET", TARGET, ["connection: close"]), ["PUT", "GET"])
    assert outcomes(answers) == [(200, None), (200, None)] and answers[1].body == place.old
    serves_on(place)


def test_a_body_shorter_than_announced_is_incomplete_and_a_longer_one_is_no_part_of_it(place):
    answers = exchange(place, request(place, "PUT", TARGET, ["content-length: 5001"]) + place.old, ends=True)
    assert outcomes(answers) == [(400, "IncompleteBody")], answers
    answers = exchange(place, request(place, "PUT", TARGET, ["content-length: 5000"]) + place.old + b"\0\0\0" + smuggled(place), ["PUT", "GET"])
    assert outcomes(answers) == [(200, None), *REFUSED], answers
    serves_on(place)


# aws-chunked, and the request behind it.

def framed(place, flaw):
    """A PUT in signed chunks whose framing has a flaw, and what must be answered."""
    signer = wire.Signer(secret_key="wrong") if flaw == "a wrong key" else wire.Signer()
    headers = {"x-amz-decoded-content-length": "5000", "content-encoding": "aws-chunked"}
    head = request(place, "PUT", TARGET, headers=headers, payload=wire.SIGNED_CHUNKS, signer=signer)
    whole = wire.signed_chunks(signer, place.old, 999)
    if flaw == "a request behind the last chunk":
        whole += smuggled(place)
    if flaw == "a request in place of a chunk":
        whole = smuggled(place) + whole
    if flaw == "a flipped byte":
        whole = whole.replace(place.old[:100], bytes([place.old[0] ^ 1]) + place.old[1:100])
    head = head[:-2] + f"content-length: {len(whole)}\r\n\r\n".encode()
    return head + whole


@pytest.mark.parametrize("flaw, expected", [
    ("no flaw", (200, None)), ("a wrong key", (403, "SignatureDoesNotMatch")), ("a flipped byte", (403, "SignatureDoesNotMatch")),
    ("a request behind the last chunk", (400, "IncompleteBody")), ("a request in place of a chunk", (400, "InvalidChunkSizeError")),
], ids=["no flaw", "a wrong key", "a flipped byte", "a request behind the last chunk", "a request in place of a chunk"])
def test_a_request_behind_an_aws_chunked_body_is_answered_and_one_within_it_is_not(place, flaw, expected):
    sent = framed(place, flaw) + request(place, "HEAD", TARGET) + framed(place, flaw) + request(place, "GET", TARGET, ["connection: close"])
    answers = exchange(place, sent, ["PUT", "HEAD", "PUT", "GET"])
    assert outcomes(answers) == [expected, (200, None), expected, (200, None)], answers
    assert answers[3].body == place.old
    serves_on(place)


def test_fifty_pipelined_requests_are_answered_in_order(place, random):
    bodies = {f"/bucket-one/pipelined-{size}": random.bytes(size) for size in (0, 10, 65_537, MIB)}
    sent, expected = bytearray(), []
    for target, body in bodies.items():
        sent += request(place, "PUT", target, [f"content-length: {len(body)}"]) + body
        expected.append(("PUT", 200, b""))
    pick = random.draw()
    for _ in range(50 - 2 * len(bodies)):
        target = pick.choice([*bodies, "/bucket-one/none"])
        method = pick.choice(["GET", "GET", "HEAD", "PUT"]) if target != "/bucket-one/none" else "GET"
        if method == "PUT":
            bodies[target] = random.bytes(len(bodies[target]))
            sent += request(place, "PUT", target, [f"content-length: {len(bodies[target])}"]) + bodies[target]
        else:
            sent += request(place, method, target)
        expected.append((method, 200 if target in bodies else 404, bodies.get(target) if method == "GET" else b""))
    for target in bodies:
        sent += request(place, "DELETE", target)
        expected.append(("DELETE", 204, b""))
    assert len(expected) == 50
    answers = []
    with wire.Connection(place.plain) as connection:
        connection.socket.setblocking(False)
        incoming = bytearray()
        while sent:  # whoever sends all before reading any may wait for ever: both sides' buffers are full
            readable, writable, _ = select.select([connection.socket], [connection.socket], [], 30)
            assert readable or writable, "it neither takes nor gives"
            if readable:
                incoming += connection.socket.recv(1 << 20)
            if writable:
                del sent[:connection.socket.send(sent[:1 << 20])]
        connection.socket.setblocking(True)
        connection.socket.settimeout(30)
        connection.file = Joined(bytes(incoming), connection.file)
        for method, *_ in expected:
            answers.append(connection.answer(method))
    for number, ((method, status, body), answer) in enumerate(zip(expected, answers)):
        assert answer.status == status, (number, answer)
        assert status == 404 or hashlib.md5(answer.body).digest() == hashlib.md5(body).digest(), number
    serves_on(place)


# Heads that are too large, and targets that are none.

@pytest.mark.parametrize("lines, expected", [
    (["x-many: y"] * 10_000, TOO_LARGE), (["x-many: y"] * 253, TOO_LARGE), (["x-many: y"] * 252, (200, None)),
    (["x-long: " + "y" * MIB], TOO_LARGE), (["x-long: " + "y" * 100_000], TOO_LARGE),
    (["x-long: " + "y" * 17_000], TOO_LARGE), (["y" * MIB], TOO_LARGE),
], ids=["10,000 lines", "257 lines", "256 lines", "a line of 1 MiB", "a line of 100 KB", "a line of 17 KB", "a name of 1 MiB"])
def test_a_head_beyond_its_limits_is_refused(place, lines, expected):
    assert outcomes(exchange(place, request(place, "GET", TARGET, lines))) == [expected]
    serves_on(place)


@pytest.mark.parametrize("target, expected", [
    ("/bucket-one/" + "k" * (100 << 10), TOO_LARGE), ("/bucket-one/" + "k" * 60_000, TOO_LARGE),
    ("/bucket-one/" + "k" * 10_000, (400, "KeyTooLongError")), ("/bucket-one?prefix=" + "k" * (100 << 10), TOO_LARGE), ("/" + "k" * MIB, TOO_LARGE),
], ids=["100 KiB", "60 KB", "10 KB", "a query of 100 KiB", "1 MiB"])
def test_a_target_beyond_its_limits_is_refused(place, target, expected):
    assert outcomes(exchange(place, request(place, "GET", target))) == [expected]
    serves_on(place)


@pytest.mark.parametrize("target, code", [
    ("/bucket-one/a%00b", "InvalidURI"), ("/bucket-one/%00", "InvalidURI"), ("/bucket-one/%c0%af", "InvalidURI"), ("/bucket-one/%e0%80%af", "InvalidURI"),
    ("/bucket-one/..%c0%afetc%c0%afpasswd", "InvalidURI"), ("/bucket-one/%ff", "InvalidURI"), ("/bucket-one/%ed%a0%80", "InvalidURI"),
    ("/bucket-one/%f5%80%80%80", "InvalidURI"), ("/bucket-one/%c3", "InvalidURI"), ("/bucket-one/a%", "InvalidURI"), ("/bucket-one/a%2", "InvalidURI"),
    ("/bucket-one/a%zz", "InvalidURI"), ("/bucket-one%2fobject", "InvalidBucketName"), ("/%2e%2e/object", "InvalidBucketName"), ("/../object", "InvalidBucketName"),
    ("/bucket-one%00/object", "InvalidBucketName"), ("/.twintree/object", "InvalidBucketName"), ("/bucket-one?list-type=2&prefix=%c0%af", "InvalidURI"),
    ("/bucket-one?list-type=2&prefix=%zz", "InvalidURI"), ("/bucket-one/object?versionId=%00", "InvalidArgument"),
])
def test_a_target_that_names_nothing_is_refused_and_the_connection_goes_on(place, target, code):
    sent = b"".join(request(place, method, target, ["content-length: 0"] if method == "PUT" else []) for method in ("GET", "PUT", "DELETE"))
    methods = ["GET", "PUT", "DELETE"] if "?list" not in target else ["GET"]
    sent = sent if len(methods) == 3 else request(place, "GET", target)
    answers = exchange(place, sent + request(place, "GET", TARGET), [*methods, "GET"])
    assert outcomes(answers) == [(400, code)] * len(methods) + [(200, None)], answers
    serves_on(place)


@pytest.mark.parametrize("target, key", [
    ("/bucket-one/%2e%2e%2fx", "../x"), ("/bucket-one/../x", "../x"), ("/bucket-one/..;/x", "..;/x"), ("/bucket-one/..\\x", "..\\x"), ("/bucket-one/%5c..%5c", "\\..\\"),
    ("/bucket-one/%252e%252e%252fx", "%2e%2e%2fx"), ("/bucket-one/%2500", "%00"), ("/bucket-one/%25c0%25af", "%c0%af"), ("/bucket-one/a;b=c", "a;b=c"),
    ("/bucket-one/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "../../../etc/passwd"), ("/bucket-one/%u002e%u002e", None),
])
def test_a_target_that_looks_like_a_way_out_is_a_key_and_nothing_else(place, random, target, key):
    body = random.bytes(100)
    with wire.Connection(place.plain) as connection:
        put = connection.ask("PUT", target, body)
        if key is None:
            assert (put.status, put.code) == (400, "InvalidURI"), put
            return serves_on(place)
        assert put.status == 200, put
        assert connection.ask("GET", target).body == body
        found = list(s3.listed(s3.client(place.plain.url), "bucket-one"))
        assert sorted(found) == sorted(["object", key])
        outside = [path for path in place.directory.parent.iterdir() if path.name != "bucket-one"]
        assert not [path for path in outside if path.name != ".twintree"], outside
        assert connection.ask("DELETE", target).status == 204
    serves_on(place)


# Who is asked.

def test_a_request_names_one_host_and_the_target_may_repeat_it(place):
    host = place.plain.url.removeprefix("http://")
    for lines, without, expected in [
        ([], ["host"], (400, "BadRequest")), ([f"host: {host}"], [], (400, "BadRequest")), (["host: other"], [], (400, "BadRequest")),
        (["host: other"], ["host"], (403, "SignatureDoesNotMatch")), (["host:"], ["host"], (403, "SignatureDoesNotMatch")),
    ]:
        sent = request(place, "GET", TARGET, lines, without=without) + request(place, "GET", TARGET)
        assert outcomes(exchange(place, sent, ["GET", "GET"])) == [expected, (200, None)], lines
    for scheme_and_host, expected in [
        (f"http://{host}", (200, None)), ("http://other.test", (403, "SignatureDoesNotMatch")), (f"http://a:b@{host}", (403, "SignatureDoesNotMatch")),
        (f"http://{host}@other.test", (403, "SignatureDoesNotMatch")),
    ]:
        sent = request(place, "GET", TARGET).replace(b"GET ", f"GET {scheme_and_host}".encode(), 1)
        assert outcomes(exchange(place, sent + request(place, "GET", TARGET), ["GET", "GET"])) == [expected, (200, None)], scheme_and_host
    serves_on(place)


def test_a_request_signed_for_one_buckets_host_opens_no_other_bucket(daemon, tree, authority):
    for name in ("bucket-one", "bucket-two"):
        (tree / name).mkdir()
        (tree / name / "object").write_bytes(name.encode())
    flags = ["--domain", "s3.test", "--tls-cert", authority.certificate, "--tls-key", authority.key]
    one, secure = daemon(tree, *flags[:2]), daemon(tree, *flags)
    signed = wire.Signer().headers("GET", "/object", "bucket-one.s3.test", {}, wire.UNSIGNED)
    with wire.Connection(one) as connection:
        for target, expected in (("/object", b"bucket-one"), ("http://bucket-one.s3.test/object", b"bucket-one"), ("http://bucket-two.s3.test/object", None)):
            connection.send("GET", target, signed)
            answer = connection.answer()
            assert (answer.body == expected) if expected else (answer.status, answer.code) == (403, "SignatureDoesNotMatch"), (target, answer)
        presigned = wire.Signer().presign("GET", "/object", "bucket-one.s3.test")
        connection.send("GET", f"http://bucket-two.s3.test{presigned}", {"host": "bucket-one.s3.test"})
        assert connection.answer().code == "SignatureDoesNotMatch"
    with http2.Connection(secure, authority.ca) as connection:
        connection.push(http2.frame(http2.HEADERS, http2.END_STREAM | http2.END_HEADERS, 1, http2.head("GET", "/object", "bucket-two.s3.test", signed)))
        body = b""
        while not (frame := connection.next())[0] == http2.DATA or not frame[1] & http2.END_STREAM:
            body += frame[3] if frame[0] == http2.DATA else b""
        assert b"SignatureDoesNotMatch" in body + frame[3], "Host was verified, and the bucket taken from :authority"


@pytest.mark.parametrize("sent, expected", [
    (b"GET\r\n\r\n", REFUSED), (b"GET / HTTP/9.9\r\nhost: x\r\n\r\n", REFUSED), (b"GET /\r\n", REFUSED), (b"G@T / HTTP/1.1\r\nhost: x\r\n\r\n", REFUSED),
    (b"GET / HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n", REFUSED), (b"GET / HTTP/1.1\r\nhost: x\r\n: no name\r\n\r\n", REFUSED),
    (b"GET / HTTP/1.1\r\nhost: x\r\na b: c\r\n\r\n", REFUSED), (b"GET / HTTP/1.1\r\n host: x\r\n\r\n", REFUSED), (b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n", REFUSED),
    (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", REFUSED), (b"GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n", REFUSED), (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", REFUSED),
    (b"SSH-2.0-OpenSSH_9.2\r\n", REFUSED), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []), (b"TRACE / HTTP/1.1\r\nhost: x\r\n\r\n", [(405, "MethodNotAllowed")]),
    (b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", [(405, "MethodNotAllowed")]), (b"get / HTTP/1.1\r\nhost: x\r\n\r\n", [(405, "MethodNotAllowed")]),
])
def test_what_is_no_request_is_refused(place, sent, expected):
    assert outcomes(exchange(place, sent)) == expected
    serves_on(place)


# Time.

def drip(connection, byte, what):
    """Sends a byte now and then until the server says something or hangs up."""
    for _ in range(600):
        if select.select([connection.socket], [], [], 0.05)[0]:
            return
        try:
            connection.socket.send(byte)
        except OSError:
            return
    pytest.fail(what)


@pytest.mark.parametrize("sent", [b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: "], ids=["its first line", "a field"])
def test_a_head_that_drips_ends_with_the_header_timeout(hasty, sent):
    with wire.Connection(hasty.plain) as connection:
        connection.socket.sendall(sent)
        drip(connection, b"y", "30 s for a head, with a timeout of 1 s")
        with pytest.raises(ConnectionError):
            connection.answer()
    serves_on(hasty)


def test_a_second_head_that_drips_ends_with_the_header_timeout_too(hasty):
    with wire.Connection(hasty.plain) as connection:
        assert connection.ask("GET", TARGET).status == 200
        connection.socket.sendall(b"GET / HT")
        drip(connection, b"y", "30 s for a head, with a timeout of 1 s")
        with pytest.raises(ConnectionError):
            connection.answer()
    serves_on(hasty)


@pytest.mark.parametrize("lines, start", [(["content-length: 5000"], b""), (["transfer-encoding: chunked"], b"1388\r\n"), (["transfer-encoding: chunked"], b"13")])
def test_a_body_that_falls_silent_is_a_request_timeout_and_ends_the_connection(hasty, lines, start):
    with wire.Connection(hasty.plain) as connection:
        connection.socket.sendall(request(hasty, "PUT", TARGET, lines) + start + (hasty.old[:100] if start != b"13" else b""))
        answer = connection.answer("PUT")
        assert (answer.status, answer.code, answer.headers["connection"]) == (400, "RequestTimeout", "close"), answer
    serves_on(hasty)


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_a_body_in_single_bytes_is_stored_whole(place, coding):
    head = request(place, "PUT", TARGET, ["content-length: 5000"] if coding == "length" else ["transfer-encoding: chunked"])
    whole = head + (place.old if coding == "length" else wire.http_chunks(place.old, 1))
    with wire.Connection(place.plain) as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(whole)):
            connection.socket.send(whole[at:at + 1])
        assert connection.answer("PUT").status == 200
    serves_on(place)


def test_a_reader_that_takes_nothing_is_cut(hasty):
    big = hasty.directory / "big"
    big.write_bytes(data.Source("big").bytes(32 * MIB))
    with wire.Connection(hasty.plain) as connection:
        connection.socket.sendall(request(hasty, "GET", "/bucket-one/big"))
        assert sockets(hasty.plain) == 1
        server.wait_until(lambda: sockets(hasty.plain) == 0, "the connection is cut")
    big.unlink()
    serves_on(hasty)


def sockets(daemon):
    """Established TCP connections of a daemon's port, as the kernel counts them on its side."""
    port = f":{daemon.port:04X}"
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    return len([row for row in rows if row[1].endswith(port) and row[3] == "01"])


# Crowds.

def test_four_hundred_idle_connections_under_256_descriptors_end_and_a_new_client_is_served(daemon, tree, random):
    (tree / "bucket-one").mkdir()
    body = random.bytes(5000)
    (tree / "bucket-one" / "object").write_bytes(body)
    one = daemon(tree, "--header-timeout", "2s", wrapper=["sh", "-c", 'ulimit -n 256; exec "$@"', "sh"])
    with wire.Connection(one) as kept:
        assert kept.ask("GET", TARGET).body == body
        idle = [socket.create_connection(("127.0.0.1", one.port)) for _ in range(400)]
        try:
            with wire.Connection(one) as late:
                answer = kept.ask("GET", TARGET)
                assert answer.status == 200 or (answer.status, answer.code) == (503, "SlowDown"), answer
                assert late.ask("GET", TARGET).body == body
            for connection in idle:
                connection.settimeout(30)
                assert connection.recv(1) == b"", "an idle connection is closed"
        finally:
            for connection in idle:
                connection.close()
        with wire.Connection(one) as connection:
            assert connection.ask("PUT", TARGET, body).status == 200
            assert connection.ask("GET", TARGET).body == body


# HTTP/2.

FLOOD = 8 * MIB
"""What a flood on one connection may add to the daemon's memory; 0.4 MiB were seen."""
HELD = 128 * 256 * 1024 + FLOOD
"""What answers may that nobody takes: one run of 256 KiB on each of 128 streams, and the same beside."""


def memory(daemon):
    """Resident bytes."""
    with open(f"/proc/{daemon.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) << 10


def open_stream(connection, stream, target=TARGET, flags=http2.END_STREAM | http2.END_HEADERS):
    """HEADERS of a signed GET."""
    signed = wire.Signer().headers("GET", target, connection.authority, {}, wire.UNSIGNED)
    signed.pop("host")
    return http2.frame(http2.HEADERS, flags, stream, http2.head("GET", target, connection.authority, signed))


def flood(place, made, settings=b""):
    """Sends what `made` makes for a connection, and sees that others are served meanwhile and that little is held."""
    before = memory(place.secure)
    with http2.Connection(place.secure, place.ca, settings) as connection:
        connection.push(made(connection))
        serves_on(place)
        grown = memory(place.secure) - before
        assert grown < FLOOD, f"{grown >> 20} MiB more"
    serves_on(place)


def calmed(place, made):
    """The same, where the server must end the connection by itself; gives GOAWAY's reason."""
    before = memory(place.secure)
    reason = None
    with http2.Connection(place.secure, place.ca) as connection:
        connection.push(made(connection))
        for kind, _, _, payload in connection.frames():
            if kind == http2.GOAWAY and int.from_bytes(payload[4:8], "big"):
                reason = int.from_bytes(payload[4:8], "big")
        grown = memory(place.secure) - before
        assert grown < FLOOD, f"{grown >> 20} MiB more"
    serves_on(place)
    return reason


def test_a_flood_of_streams_that_are_reset_at_once_is_bounded(place):
    def made(connection):
        cancel = http2.CANCEL.to_bytes(4, "big")
        return b"".join(open_stream(connection, stream) + http2.frame(http2.RST_STREAM, 0, stream, cancel) for stream in range(1, 10_000, 2))
    assert calmed(place, made) == http2.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("piece", [b"", b"\0\1a\1b" * 3000], ids=["empty", "full"])
def test_a_flood_of_continuations_is_ended(place, piece):
    def made(connection):
        count = 200_000 if not piece else 2000
        return open_stream(connection, 1, flags=0) + http2.frame(http2.CONTINUATION, 0, 1, piece) * count
    assert calmed(place, made) == http2.ENHANCE_YOUR_CALM


def test_headers_that_unfold_to_64_mib_are_bounded(place):
    def made(connection):
        block = http2.head("GET", TARGET, connection.authority, {}) + http2.field("x-bomb", "y" * 3000, first=0x40) + b"\xbe" * 12_000
        return b"".join(http2.frame(http2.HEADERS, http2.END_STREAM | http2.END_HEADERS, stream, block) for stream in range(1, 101, 2))
    flood(place, made)


@pytest.mark.parametrize("kind, payload", [(http2.SETTINGS, b""), (http2.SETTINGS, http2.setting(http2.INITIAL_WINDOW_SIZE, 1000) * 100), (http2.PING, bytes(8))],
                         ids=["empty settings", "settings", "pings"])
def test_a_flood_of_frames_that_must_be_answered_is_bounded(place, kind, payload):
    frame = http2.frame(kind, 0, 0, payload)
    flood(place, lambda _: frame * (8 * MIB // len(frame)))


def test_a_window_of_nothing_holds_little_and_ends_with_the_body_timeout(hasty):
    before, big = memory(hasty.secure), hasty.directory / "big"
    big.write_bytes(data.Source("big").bytes(8 * MIB))
    with http2.Connection(hasty.secure, hasty.ca, http2.setting(http2.INITIAL_WINDOW_SIZE, 0)) as connection:
        connection.push(b"".join(open_stream(connection, stream, "/bucket-one/big") for stream in range(1, 201, 2)))
        # It goes on talking: only that it takes no byte of any answer tells it from a client that is alive.
        ended = False
        for _ in range(600):
            if select.select([connection.socket], [], [], 0.05)[0] or connection.socket.pending():
                if (frame := connection.next()) is None:
                    ended = True
                    break
                assert frame[0] != http2.DATA
            else:
                connection.push(http2.frame(http2.PING, 0, 0, bytes(8)))
        assert ended, "it goes on with a body timeout of 1 s"
        assert memory(hasty.secure) - before < HELD
    big.unlink()
    serves_on(hasty)


# TLS.

@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70_000, bytes(1000), b"\x80\x2e\x01\x00\x02" + bytes(41)],
                         ids=["plain HTTP", "a record too long", "zeros", "SSLv2"])
def test_what_is_no_tls_is_hung_up_on(place, sent):
    with socket.create_connection(("127.0.0.1", place.secure.port), timeout=30) as connection:
        answer = b""
        try:
            connection.sendall(sent)
            while piece := connection.recv(1000):
                answer += piece
        except ConnectionError:
            pass
        assert answer[:1] in (b"", b"\x15"), "nothing, or an alert"
    serves_on(place)


def hello():
    """A client's first message."""
    context, incoming, outgoing = ssl.create_default_context(), ssl.MemoryBIO(), ssl.MemoryBIO()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("part", ["nothing", "half a hello", "a hello"])
def test_half_a_handshake_ends_with_the_header_timeout(hasty, part):
    whole = hello()
    with socket.create_connection(("127.0.0.1", hasty.secure.port), timeout=30) as connection:
        connection.sendall({"nothing": b"", "half a hello": whole[:len(whole) // 2], "a hello": whole}[part])
        while connection.recv(65536):
            pass
    serves_on(hasty)


def test_a_tls_connection_without_a_request_ends_with_the_header_timeout(hasty):
    with wire.Connection(hasty.secure, ca=hasty.ca) as connection:
        with pytest.raises(ConnectionError):
            connection.answer()
    serves_on(hasty)
