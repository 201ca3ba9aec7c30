"""The log's line of each request: what was asked by whom and what became of it, under the id that the client was told."""

import json
import re
import urllib.parse

import pytest
from lib import http2, s3, server, wire

FIELDS = {"request_id", "client", "method", "operation", "bucket", "key", "access_key", "status", "bytes", "ms", "path", "hops"}
"""What each line has; `error` comes with failures."""
NONE = {"bucket": "", "key": "", "access_key": ""}


@pytest.fixture
def logged(daemon, tree, random):
    """A daemon that logs in JSON, on a tree with one bucket and an object."""
    (tree / "bucket-one").mkdir()
    (tree / "bucket-one" / "small").write_bytes(random.bytes(1000))
    return daemon(tree, "--log-format", "json", beside=False)


def lines(daemon):
    """The lines about requests, as they came."""
    entries = [json.loads(line) for line in daemon.log.read_text().split("\n")[:-1]]
    return [{"level": entry["level"], **entry["fields"]} for entry in entries if "request_id" in entry["fields"]]


def line_of(daemon, answer):
    """The one line of an answer; it is written when the answer has gone."""
    identity = answer.headers["x-amz-request-id"]
    found = server.wait_until(lambda: [line for line in lines(daemon) if line["request_id"] == identity], f"{identity} is logged")
    assert len(found) == 1, found
    return found[0]


CASES = [
    # method, target, headers, operation, key, status, error
    ("GET", "/bucket-one/small", {}, "GetObject", "small", 200, None),
    ("HEAD", "/bucket-one/small", {}, "HeadObject", "small", 200, None),
    ("GET", "/bucket-one/small", {"range": "bytes=0-9"}, "GetObject", "small", 206, None),
    ("GET", "/bucket-one/none", {}, "GetObject", "none", 404, "NoSuchKey"),
    ("HEAD", "/bucket-one/none", {}, "HeadObject", "none", 404, "NoSuchKey"),
    ("GET", "/bucket-two/small", {}, "GetObject", "small", 404, "NoSuchBucket"),
    ("GET", "/bucket-one/small", {"if-match": '"x"'}, "GetObject", "small", 412, "PreconditionFailed"),
    ("PUT", "/bucket-one/a%20b%2Fc", {}, "PutObject", "a b/c", 200, None),
    ("DELETE", "/bucket-one/small", {}, "DeleteObject", "small", 204, None),
    ("GET", "/bucket-one?list-type=2", {}, "ListObjectsV2", "", 200, None),
    ("GET", "/bucket-one?policy", {}, "GetBucketPolicy", "", 404, "NoSuchBucketPolicy"),
    ("GET", "/", {}, "ListBuckets", "", 200, None),
    ("GET", "/bucket-one/small?torrent", {}, "GetObjectTorrent", "small", 501, "NotImplemented"),
]


@pytest.mark.parametrize("method, target, headers, operation, key, status, error", CASES)
def test_a_request_has_one_line_that_says_what_was_asked_by_whom_and_what_became_of_it(logged, method, target, headers, operation, key, status, error):
    with wire.Connection(logged) as connection:
        answer = connection.ask(method, target, headers=headers)
    assert answer.status == status
    line = line_of(logged, answer)
    assert set(line) - {"level", "message", "error"} == FIELDS
    bucket = target.partition("?")[0].split("/")[1]
    expected = {"method": method, "operation": operation, "bucket": bucket, "key": key, "access_key": server.ACCESS_KEY, "status": status,
                "bytes": len(answer.body), "client": "127.0.0.1"}
    assert {name: line[name] for name in expected} == expected
    assert 0 <= line["ms"] < 60_000
    assert line.get("error") == error
    if status >= 400 and method != "HEAD":
        assert f"<RequestId>{line['request_id']}</RequestId>".encode() in answer.body
    assert re.fullmatch("[0-9A-Z]{16}", line["request_id"])


def test_both_ways_write_the_same_line(daemon, tree, random):
    (tree / "bucket-one").mkdir()
    (tree / "bucket-one" / "small").write_bytes(random.bytes(1000))
    said = []
    for way in ("on", "off"):
        one = daemon(tree, "--log-format", "json", beside=False, environment={"TWINTREE_EXPRESS": way})
        with wire.Connection(one) as connection:
            line = line_of(one, connection.ask("GET", "/bucket-one/small", payload=wire.UNSIGNED))
        said.append({name: value for name, value in line.items() if name not in ("request_id", "ms")})
    assert said[0] == said[1]


def test_who_was_not_verified_is_not_named(logged):
    """What a client merely claims may be anything, also a secret in the wrong place."""
    claims = [wire.Signer(secret_key="wrong"), wire.Signer(access_key="NOBODY"), wire.Signer(access_key=server.SECRET_KEY.replace("/", "-"))]
    for claim in claims:
        with wire.Connection(logged) as connection:
            answer = connection.ask("GET", "/bucket-one/small", signer=claim)
        assert answer.status == 403
        line = line_of(logged, answer)
        assert (line["access_key"], line["key"], line["error"]) == ("", "small", answer.code)
    with wire.Connection(logged) as connection:
        connection.send("GET", "/bucket-one/small", {"host": connection.host})
        assert line_of(logged, connection.answer())["access_key"] == ""


@pytest.mark.parametrize("head, status, error", [
    (b"GET /bucket-one/small HTTP/1.1\r\n\r\n", 400, "BadRequest"),
    (b"GET /b HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 20_000 + b"\r\n\r\n", 400, "RequestHeaderSectionTooLarge"),
    (b"GET /bucket-one/%FF%00 HTTP/1.1\r\nhost: x\r\n\r\n", 400, "InvalidURI"),
])
def test_a_head_that_is_refused_has_its_line_and_its_id_too(logged, head, status, error):
    with wire.Connection(logged) as connection:
        connection.socket.sendall(head)
        answer = connection.answer()
    assert answer.status == status
    line = line_of(logged, answer)
    assert (line["status"], line["error"], line["access_key"]) == (status, answer.code, "")
    assert answer.code == error
    assert f"<RequestId>{line['request_id']}</RequestId>".encode() in answer.body


HOSTILE = "a\nb\r\x1b[31m\x07\"request\" status=200\u2028\u202e\x7f\\"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_key_can_neither_forge_a_line_nor_speak_to_the_terminal(daemon, tree, form):
    (tree / "bucket-one").mkdir()
    one = daemon(tree, "--log-format", form, beside=False)
    before = one.log.read_bytes().count(b"\n")
    with wire.Connection(one) as connection:
        identity = connection.ask("GET", "/bucket-one/" + wire.encode(HOSTILE)).headers["x-amz-request-id"].encode()
    server.wait_until(lambda: identity in one.log.read_bytes(), "it is logged")
    log = one.log.read_bytes()
    assert log.count(b"\n") == before + 1
    assert re.search(rb"[\x00-\x09\x0b-\x1f]", log) is None
    if form == "text":
        assert b"\x7f" not in log and "\u202e".encode() not in log
    else:
        assert lines(one)[-1]["key"] == HOSTILE


def test_the_text_form_says_the_same(daemon, tree, random):
    (tree / "bucket-one").mkdir()
    one = daemon(tree, beside=False)
    with wire.Connection(one) as connection:
        answer = connection.ask("PUT", "/bucket-one/a%20key", random.bytes(10))
    identity = answer.headers["x-amz-request-id"]
    line = server.wait_until(lambda: [text for text in one.log.read_text().splitlines() if identity in text], "it is logged")
    assert len(line) == 1
    for words in (f'request_id="{identity}"', "client=127.0.0.1", "method=PUT", 'operation="PutObject"', 'bucket="bucket-one"', 'key="a key"',
                  f'access_key="{server.ACCESS_KEY}"', "status=200", "bytes=0", 'path="-"', "hops=0"):
        assert words in line[0], line[0]
    assert re.search(r" ms=\d+(\.\d+)?", line[0]), line[0]


def test_a_client_that_leaves_in_the_middle_shows(logged, tree, random):
    (tree / "bucket-one" / "large").write_bytes(random.bytes(64 << 20))
    with wire.Connection(logged) as connection:
        connection.send("GET", "/bucket-one/large", wire.Signer().headers("GET", "/bucket-one/large", connection.host))
        assert connection.file.read(20).startswith(b"HTTP/1.1 200")
    line = server.wait_until(lambda: lines(logged), "it is logged")[0]
    assert (line["operation"], line["status"], line["error"]) == ("GetObject", 200, "the client left before the end")
    assert line["bytes"] < 64 << 20


def test_no_secret_and_no_signature_is_ever_logged(daemon, tree, authority, random):
    """With everything logged that there is, by us and by all libraries, over HTTP, TLS and HTTP/2."""
    (tree / "bucket-one").mkdir()
    plain = daemon(tree, "--log", "trace", beside=False)
    secure = daemon(tree, "--log", "trace", "--log-format", "json", "--tls-cert", authority.certificate, "--tls-key", authority.key, beside=False)
    hush = {server.SECRET_KEY, urllib.parse.quote(server.SECRET_KEY, safe="")}
    for one, ca in ((plain, None), (secure, authority.ca)):
        for signer in (wire.Signer(), wire.Signer(secret_key="wrong but long enough"), wire.Signer(access_key="NOBODY")):
            with wire.Connection(one, ca=ca) as connection:
                for method, target in (("GET", "/bucket-one/a?x=y"), ("PUT", "/bucket-one/a")):
                    connection.ask(method, target, signer=signer)
                    hush.add(signer.previous)
            with wire.Connection(one, ca=ca) as connection:
                for target in ("/bucket-one/a", "/bucket-one/a?versionId=none"):
                    signed = signer.presign("GET", target, connection.host)
                    hush.add(signed.rpartition("=")[2])
                    for wanted in (signed, signed + "0", signed.replace("Expires=600", "Expires=0")):
                        connection.send("GET", wanted, {"host": connection.host})
                        connection.answer()
            with wire.Connection(one, ca=ca) as connection:
                body = random.bytes(100_000)
                every = signer.headers("PUT", "/bucket-one/a", connection.host, {"x-amz-decoded-content-length": len(body)}, wire.SIGNED_CHUNKS)
                hush.add(signer.previous)
                framed = wire.signed_chunks(signer, body)
                hush.update(re.findall(r"chunk-signature=([0-9a-f]{64})", framed.decode("latin-1")))
                connection.send("PUT", "/bucket-one/a", every | {"content-length": len(framed)}, framed)
                connection.answer()
        old = s3.client(one.url, verify=ca, signature="s3")
        old.put_object(Bucket="bucket-one", Key="old", Body=b"old")
        link = old.generate_presigned_url("get_object", Params={"Bucket": "bucket-one", "Key": "old"})
        mark = urllib.parse.parse_qs(urllib.parse.urlsplit(link).query)["Signature"][0]
        hush.update((mark, urllib.parse.quote(mark, safe="")))
        with wire.Connection(one, ca=ca) as connection:
            connection.send("GET", link.removeprefix(one.url), {"host": connection.host})
            assert connection.answer().body == b"old"
    with http2.Connection(secure, authority.ca) as connection:
        signer = wire.Signer()
        every = signer.headers("HEAD", "/bucket-one/a", connection.authority)
        hush.add(signer.previous)
        every.pop("host")
        block = http2.head("HEAD", "/bucket-one/a", connection.authority, every)
        connection.push(http2.frame(http2.HEADERS, http2.END_STREAM | http2.END_HEADERS, 1, block))
        while not ((frame := connection.next())[2] == 1 and frame[1] & http2.END_STREAM):
            pass
    for one in (plain, secure):
        one.stop()
        log = one.log.read_text()
        assert "GetObject" in log and (one is plain or "TRACE" in log)
        for word in hush:
            assert len(word) >= 20 and word not in log, f"{word} is in the log"
