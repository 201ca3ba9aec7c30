"""A short PUT on the express way is what it would be on the whole way: the same answer, the same object, the same refusal.

Two daemons on one tree, one of them with the express way closed (TWINTREE_EXPRESS=off), are given the same. That the
way was taken is seen by strace: it sends, and hyper writes vectors.
"""

import base64
import concurrent.futures
import contextlib
import hashlib
import os
import socket
import threading
import time

import pytest
from lib import data, server, trace, wire

SHORT = 64 << 10
LAG = 1.2
"""Seconds after which a body that lags has gone to hyper."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("express-put")
    (folder / "root" / "data").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        daemons = {}
        for name in ("on", "off"):
            environment = {**os.environ, "TWINTREE_EXPRESS": name}
            daemons[name] = stack.enter_context(server.Daemon(folder / "root", folder / name, "--seal", "off", environment=environment,
                                                              beside=False))
        with wire.Connection(daemons["off"]) as connection:
            for key in ("a%20file", "folder/within"):
                assert connection.ask("PUT", f"/data/{key}", b"there").status == 200
        yield daemons


def stored(daemon, target):
    """What is there, as the whole way says."""
    with wire.Connection(daemon) as connection:
        answer = connection.ask("GET", target, headers={"x-amz-checksum-mode": "ENABLED"}, payload=wire.UNSIGNED)
    status, headers, body = wire.said(answer)
    return status, {name: value for name, value in headers.items() if name != "last-modified"}, body


def md5(body):
    return base64.b64encode(hashlib.md5(body).digest()).decode()


BODY = data.Source("express-put").bytes(4096)
SAID = [
    {}, {"content-type": "text/plain", "cache-control": "no-cache", "content-disposition": 'attachment; filename="x"', "content-language": "ko",
         "content-encoding": "identity", "expires": "never", "x-amz-meta-one": "1", "x-amz-meta-two": "zwei", "x-amz-storage-class": "STANDARD_IA"},
    {"X-Amz-Meta-Upper": "1"}, {"x-amz-meta-long": "x" * 2100}, {"x-amz-meta-name": "caf\u00e9"},
    {"content-md5": md5(BODY)}, {"content-md5": md5(b"another")}, {"content-md5": "no digest"},
    {"x-amz-checksum-crc32": wire.crc32(BODY)}, {"x-amz-checksum-crc32": wire.crc32(b"another")}, {"x-amz-checksum-crc32": "short"},
    {"x-amz-checksum-sha256": wire.sha256(BODY), "x-amz-sdk-checksum-algorithm": "SHA256"}, {"x-amz-sdk-checksum-algorithm": "CRC32"},
    {"x-amz-tagging": "a=b&c=d"}, {"x-amz-tagging": "a=b&a=d"}, {"x-amz-acl": "private"}, {"x-amz-acl": "public-read"},
    {"x-amz-storage-class": "SHOEBOX"}, {"if-none-match": "*"}, {"if-match": '"nothing"'}, {"x-amz-server-side-encryption": "AES256"},
    {"expect": "100-continue"}, {"accept-encoding": "identity", "user-agent": "a  b"},
]


@pytest.mark.parametrize("headers", SAID, ids=lambda headers: "+".join(headers) or "none")
@pytest.mark.parametrize("payload", ["unsigned", "signed", "another"])
def test_both_ways_store_and_answer_alike(place, headers, payload):
    payload = {"unsigned": wire.UNSIGNED, "signed": None, "another": hashlib.sha256(b"another").hexdigest()}[payload]
    seen = []
    for name in ("on", "off"):
        with wire.Connection(place["off"]) as connection:
            connection.ask("DELETE", "/data/alike")
        with wire.Connection(place[name]) as connection:
            first = wire.said(connection.ask("PUT", "/data/alike", BODY, headers=headers, payload=payload))
        seen.append((first, stored(place["off"], "/data/alike")))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("body", [b"", BODY], ids=len)
def test_who_says_expect_gets_what_the_whole_way_gives(place, body):
    """Also that the connection ends behind an empty one: botocore takes an answer without `100 Continue` for the next one's as well."""
    seen = []
    for name in ("on", "off"):
        with wire.Connection(place[name]) as connection:
            connection.socket.sendall(head(connection, "expects", len(body), expect="100-continue"))
            if body:
                assert [connection.file.readline(), connection.file.readline()] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]
                connection.socket.sendall(body)
            seen.append(wire.said(connection.answer("PUT")))
            assert ("connection" in seen[-1][1]) == (not body)
    assert seen[0] == seen[1]


KEYS = ["plain", "new/folders/and", "folder/", "folder", "a%20file", "a%20file/under", "a%20file/", "an/annex//key", "none/", "%FF", "%00", "%zz",
        "../data/x", "./x", ".twintree/x", "x" * 255, "x" * 256, "%C3%A9", "a%2Fb"]


@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
@pytest.mark.parametrize("length", [0, 1, SHORT, SHORT + 1])
def test_both_ways_put_the_same_where_keys_are_odd(place, key, length):
    body = data.Source("express-put").bytes(length)
    seen = []
    for name in ("on", "off"):
        with wire.Connection(place[name]) as connection:
            answer = wire.said(connection.ask("PUT", f"/data/{key}", body, payload=wire.UNSIGNED))
            again = wire.said(connection.ask("PUT", f"/data/{key}", body, payload=wire.UNSIGNED))
        seen.append((answer, again, stored(place["off"], f"/data/{key}")))
        with wire.Connection(place["off"]) as connection:
            if key not in ("a%20file", "folder", "folder/"):
                connection.ask("DELETE", f"/data/{key}")
    assert seen[0] == seen[1]


@pytest.mark.parametrize("flaw", ["secret", "key", "header", "path", "none", "bucket", "unsigned header"])
def test_no_way_lets_anybody_write(place, flaw):
    def ask(daemon):
        target, signer = "/data/forbidden", wire.Signer()
        if flaw == "secret":
            signer = wire.Signer(secret_key="another")
        if flaw == "key":
            signer = wire.Signer(access_key="ANOTHER")
        if flaw == "bucket":
            target = "/none/forbidden"
        with wire.Connection(daemon) as connection:
            headers = signer.headers("PUT", target, connection.host, {"content-type": "a/b"})
            if flaw == "header":
                headers["content-type"] = "c/d"
            if flaw == "path":
                target = "/data/forbidden2"
            if flaw == "none":
                del headers["authorization"]
            if flaw == "unsigned header":
                headers["x-amz-meta-a"] = "b"
            connection.send("PUT", target, headers | {"content-length": 4}, b"body")
            return connection.answer("PUT")

    on, off = (ask(place[name]) for name in ("on", "off"))
    assert (on.status, on.code) == (off.status, off.code)
    assert on.status in (400, 403, 404)
    assert stored(place["off"], "/data/forbidden")[0] == stored(place["off"], "/data/forbidden2")[0] == 404


def head(connection, key, length, *, method="PUT", **more):
    """A signed head, as bytes."""
    headers = wire.Signer().headers(method, f"/data/{key}", connection.host) | {"content-length": length} | more
    if method != "PUT":
        del headers["content-length"]
    lines = [f"{method} /data/{key} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def ways(events):
    """Which way each answer went: the express way sends, hyper writes vectors."""
    return [event.name for event in events if "HTTP/1.1 200" in event.words]


def test_the_way_is_taken_however_the_body_comes(place, tmp_path):
    """With its head, after it, in pieces, and after the client was told to go on; two requests in one write are hyper's."""
    with wire.Connection(place["on"]) as connection, trace.Trace(place["on"], tmp_path / "strace", calls="sendto,writev,sendmsg") as traced:
        wire_ = connection.socket
        for key, length in (("at-once", 4096), ("empty", 0), ("long", SHORT)):
            body = data.Source(key).bytes(length)
            wire_.sendall(head(connection, key, length) + body)
            assert connection.answer("PUT").status == 200
            assert stored(place["off"], f"/data/{key}")[2] == body
        wire_.sendall(head(connection, "pieces", 4096))
        for at in range(0, 4096, 1000):
            time.sleep(0.01)  # each comes by itself
            wire_.sendall(BODY[at:at + 1000])
        assert connection.answer("PUT").status == 200
        wire_.sendall(head(connection, "told", 4096, expect="100-continue"))
        assert connection.file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert connection.file.readline() == b"\r\n"
        wire_.sendall(BODY)
        assert connection.answer("PUT").status == 200
        assert stored(place["off"], "/data/pieces")[2] == stored(place["off"], "/data/told")[2] == BODY
        wire_.sendall(head(connection, "two", 3) + b"two" + head(connection, "two", 0, method="GET"))
        assert connection.answer("PUT").status == 200
        assert connection.answer().body == b"two"
    assert ways(traced.events) == ["sendto"] * 5 + ["writev"] * 2


def test_a_body_that_lags_or_breaks_off_is_as_on_the_whole_way(place):
    for name in ("on", "off"):
        with wire.Connection(place[name]) as connection:
            connection.socket.sendall(head(connection, "lags", 6) + b"lag")
            time.sleep(LAG)
            connection.socket.sendall(b"ged")
            assert connection.answer("PUT").status == 200
            assert connection.ask("GET", "/data/lags").body == b"lagged"
        with wire.Connection(place[name]) as connection:
            connection.socket.sendall(head(connection, "breaks", 6) + b"bre")
            connection.socket.shutdown(socket.SHUT_WR)
            answer = connection.answer("PUT")
            assert (answer.status, answer.code) == (400, "IncompleteBody")
        with wire.Connection(place[name]) as connection:
            connection.socket.sendall(head(connection, "breaks", 6) + b"bre")
        assert stored(place["off"], "/data/breaks")[0] == 404


def test_a_crowd_stores_each_its_own_and_learns_its_own_failure(place):
    """Of 32 clients each puts what it is told apart by; every fifth sends a digest of another body, and some of them write one key."""
    def client(number):
        outcomes = []
        with wire.Connection(place["on"]) as connection:
            for turn in range(8):
                body = f"{number} {turn} ".encode() * 200
                key = f"crowd/{number % 8 if turn % 2 else number}"
                wrong = (number + turn) % 5 == 0
                headers = {"content-md5": md5(b"another" if wrong else body)}
                answer = connection.ask("PUT", f"/data/{key}", body, headers=headers, payload=wire.UNSIGNED)
                outcomes.append((wrong, key, data.md5(body), answer.status, answer.headers.get("etag"), answer.code))
        return outcomes

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        outcomes = [outcome for one in pool.map(client, range(32)) for outcome in one]
    for wrong, _, digest, status, etag, code in outcomes:
        assert (status, etag, code) == ((400, None, "BadDigest") if wrong else (200, f'"{digest}"', None))
    for key in {key for _, key, *_ in outcomes}:
        status, headers, body = stored(place["off"], f"/data/{key}")
        written = {digest for wrong, other, digest, *_ in outcomes if other == key and not wrong}
        assert status == 200
        assert headers["etag"].strip('"') == data.md5(body)
        assert data.md5(body) in written


def test_a_put_that_is_under_way_when_the_daemon_ends_is_answered(daemon, tree, tmp_path):
    (tree / "data").mkdir()
    one = daemon(tree, "--seal", "off", beside=False)
    with wire.Connection(one) as connection, trace.Trace(one, tmp_path / "strace", slow=("linkat",), calls="linkat"):
        connection.socket.sendall(head(connection, "ending", 4096) + BODY)
        ending = threading.Thread(target=one.stop)
        ending.start()
        assert connection.answer("PUT").status == 200
        ending.join()
    assert (tree / "data" / "ending").read_bytes() == BODY


def test_a_client_that_is_gone_before_its_answer_costs_nobody_else_theirs(place):
    """Its object is there, or is not; the next ones are stored."""
    for _ in range(20):
        with wire.Connection(place["on"]) as connection:
            connection.socket.sendall(head(connection, "gone", 4096) + BODY)
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with wire.Connection(place["on"]) as connection:
        assert connection.ask("PUT", "/data/next", b"next").status == 200
    assert stored(place["off"], "/data/gone")[0] in (200, 404)
