"""Which way the bytes of an answer take, by the request log, and that they are the object's bytes whichever it is.

The rule (ARCHITECTURE, "The way of a request"): up to 64 KiB are answered in memory where the page cache has them;
more goes by sendfile in the clear, by copies that do not wait over TLS and HTTP/2; whatever would wait is read by a
thread that may wait. What has no body has no path. Beside a mount nothing goes by sendfile under a recorded ETag, because a
writer there could still change the pages that are queued.
"""

import contextlib
import ctypes
import hashlib
import http.client
import json
import mmap
import os
import socket
import subprocess
import types

import pytest
from lib import data, s3, server, tools, trace, tree as trees, wire

INLINE = 64 << 10
SIZES = [0, 1, INLINE - 1, INLINE, INLINE + 1, data.MIB, 64 * data.MIB + 1]
KINDS = ["whole", "range", "slice", "head", "not-modified"]
WAYS = ["http", "tls", "h2"]
TRIES = 5
"""How often a cell is asked for anew because the kernel took pages away from under it."""


def expected_path(way, length, warm):
    """The rule. `length` is what the answer's body has, `warm` whether the page cache has all of it."""
    if length == 0:
        return "-"
    if length <= INLINE:
        return "inline" if warm else "blocking"
    if way == "http" and not server.BESIDE:
        return "sendfile"
    return "nowait" if warm else "blocking"


@pytest.fixture(scope="session")
def disk(tmp_path_factory):
    """A directory whose pages can be dropped: on the disk of the temporary directory, else on a small one of our own."""
    folder = tmp_path_factory.mktemp("paths") / "tree"
    folder.mkdir()
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], check=True, capture_output=True, text=True).stdout.strip()
    if kind in ("ext2/ext3", "xfs", "btrfs"):
        yield folder
        return
    with trees.Mount(folder, "ext4", 200):
        yield folder


@pytest.fixture(scope="session")
def place(disk, authority, tmp_path_factory):
    """Two daemons on one tree, in the clear and with TLS; one object of each size, PUT once."""
    folder = tmp_path_factory.mktemp("daemons")
    flags = ["--log-format", "json", "--seal", "off"]
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(server.Daemon(disk, folder / "plain", *flags))
        secure = stack.enter_context(server.Daemon(disk, folder / "tls", *flags, "--tls-cert", authority.certificate, "--tls-key", authority.key))
        client = s3.client(plain.url)
        client.create_bucket(Bucket="bucket-one")
        source, bodies = data.Source("body paths"), {}
        for size in SIZES:
            bodies[size] = source.bytes(size)
            client.put_object(Bucket="bucket-one", Key=str(size), Body=bodies[size])
        yield types.SimpleNamespace(plain=plain, secure=secure, ca=authority.ca, bodies=bodies, directory=disk / "bucket-one", folder=folder)


# The page cache.

libc = ctypes.CDLL(None, use_errno=True)
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


def cached_pages(file, size):
    """How many pages of a file the page cache holds (mincore)."""
    pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
    found = ctypes.create_string_buffer(pages)
    # A private mapping that could be written has an address that ctypes can take; it is never touched.
    with mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapping:
        window = (ctypes.c_char * size).from_buffer(mapping)
        failed = libc.mincore(ctypes.addressof(window), size, found)
        del window
    assert failed == 0, os.strerror(ctypes.get_errno())
    return sum(flag & 1 for flag in found.raw)


def make(path, size, warm):
    """Brings all of a file into the page cache, or drops all of it; says whether the kernel did it."""
    if size == 0:
        return True
    with open(path, "rb") as file:
        if warm:
            while file.read(data.MIB):
                pass
            return is_warm(file, size)
        os.fsync(file.fileno())

        def dropped():
            stir_network()
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return cached_pages(file, size) == 0

        # Linux: pages that a sendfile gave to a socket may be held until their processor has network traffic again.
        server.wait_until(dropped, "the pages are dropped")
        return True


def stir_network():
    """A packet from each processor to itself: buffers that wait there to be freed are freed."""
    allowed = os.sched_getaffinity(0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.settimeout(5)
        try:
            for processor in allowed:
                os.sched_setaffinity(0, {processor})
                one.sendto(b"x", one.getsockname())
                one.recv(1)
        finally:
            os.sched_setaffinity(0, allowed)


def is_warm(file, size):
    """Says whether every page of a file is cached."""
    return cached_pages(file, size) == (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE


# Asking, each in its way.

def by_connection(place, way, method, target, headers):
    """A request over HTTP/1.1, in the clear or over TLS."""
    daemon, ca = (place.plain, None) if way == "http" else (place.secure, place.ca)
    with wire.Connection(daemon, ca=ca) as connection:
        return connection.ask(method, target, headers=headers)


def by_curl(place, method, target, headers):
    """The same over HTTP/2."""
    signed = wire.Signer().headers(method, target, place.secure.url.removeprefix("https://"), headers, wire.EMPTY)
    head, body = place.folder / "head", place.folder / "body"
    words = ["curl", "--silent", "--show-error", "--max-time", "60", "--http2", "--cacert", place.ca, "--dump-header", str(head),
             "--output", str(body), "--write-out", "%{http_version}", *(["--head"] if method == "HEAD" else ["--request", method])]
    for name, value in signed.items():
        words += ["--header", f"{name}: {value}"]
    body.unlink(missing_ok=True)
    done = subprocess.run([*words, place.secure.url + target], check=True, capture_output=True, text=True)
    assert done.stdout == "2", "it is not HTTP/2"
    with open(head, "rb") as lines:
        status = int(lines.readline().split()[1])
        found = {name.lower(): value for name, value in http.client.parse_headers(lines).items()}
    got = body.read_bytes() if body.exists() and method != "HEAD" else b""
    return wire.Answer(status, found, got)


def ask(place, way, method, target, headers):
    """A request and its answer."""
    if way == "h2":
        return by_curl(place, method, target, headers)
    return by_connection(place, way, method, target, headers)


def logged(place, way, answer):
    """The one log line of an answered request."""
    log = (place.plain if way == "http" else place.secure).log
    wanted = answer.headers["x-amz-request-id"].encode()

    def line():
        found = [json.loads(text)["fields"] for text in log.read_bytes().splitlines() if wanted in text]
        assert len(found) <= 1, found
        return found and found[0]

    return server.wait_until(line, "the request's log line")


# The cells.

def cell(size, kind, body):
    """What is asked (method, headers) and what must come (status, bytes, headers beside)."""
    etag = f'"{data.md5(body)}"'
    first, end = {"range": (1 if size > 1 else 0, size), "slice": (size // 2, min(size, size // 2 + 5000))}.get(kind, (0, size))
    if kind in ("range", "slice"):
        if size == 0:
            return "GET", {"range": "bytes=0-"}, 416, None, {"content-range": "bytes */0"}
        more = {"content-range": f"bytes {first}-{end - 1}/{size}", "content-length": str(end - first), "etag": etag}
        return "GET", {"range": f"bytes={first}-{end - 1}"}, 206, body[first:end], more
    if kind == "not-modified":
        return "GET", {"if-none-match": etag}, 304, b"", {"etag": etag}
    return "HEAD" if kind == "head" else "GET", {}, 200, b"" if kind == "head" else body, {"content-length": str(size), "etag": etag}


@pytest.mark.parametrize("warmth", ["warm", "cold"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
def test_a_body_takes_the_path_of_the_rule_and_is_the_objects_bytes(place, size, way, kind, warmth):
    if way == "h2":
        tools.need("curl")
    line, warm, path, target = None, warmth == "warm", place.directory / str(size), f"/bucket-one/{size}"
    method, headers, status, expected, more = cell(size, kind, place.bodies[size])
    ask(place, way, "HEAD", target, {})  # names and records are in the kernel's caches: only the pages differ
    for _ in range(TRIES):
        if not make(path, size, warm):
            continue
        answer = ask(place, way, method, target, headers)
        line = logged(place, way, answer)
        length = check_bytes(answer, status, expected, more, kind)
        assert (line["status"], line["bytes"]) == (status, length), line
        in_memory = warm or expected is None  # an error is made in memory
        # A thread that may wait reads exactly what is cold. Linux: a NOWAIT read may give up on a page that is cached, when
        # somebody holds it just then, and what was dropped may be read again beside us: such an answer is asked for anew.
        paths = [expected_path(way, length, in_memory)]
        if (way, kind) == ("http", "whole") and paths == ["blocking"]:
            # Linux: the try of the express way, which would have waited, has begun to read the pages: they may be there by now.
            paths.append("inline")
        if line["path"] in paths and (line["hops"] > 0) == (not in_memory and length > INLINE):
            return
    pytest.fail(f"{TRIES} times not by the rule, {path} being {warmth}: {line}")


def check_bytes(answer, status, expected, more, kind):
    """What the client sees must be right at every try; gives the body's length."""
    assert answer.status == status, answer
    if expected is None:
        assert answer.code == "InvalidRange"
        expected = answer.body
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(expected).digest() and len(answer.body) == len(expected)
    assert {name: answer.headers.get(name) for name in more} == more, answer.headers
    assert kind != "not-modified" or "content-length" not in answer.headers
    return len(expected)


def test_what_has_no_body_names_no_path_and_what_is_made_in_memory_is_inline(place):
    with wire.Connection(place.plain) as connection:
        for method, target, body, path in [
            ("PUT", "/bucket-one/written", b"x", "-"), ("DELETE", "/bucket-one/written", b"", "-"), ("HEAD", "/bucket-one/none", b"", "-"),
            ("GET", "/bucket-one/none", b"", "inline"), ("GET", "/bucket-one?list-type=2", b"", "inline"), ("GET", "/", b"", "inline"),
        ]:
            answer = connection.ask(method, target, body)
            assert logged(place, "http", answer)["path"] == path, (method, target)


# Where sendfile is not to be had.

@pytest.mark.parametrize("error", ["EINVAL", "ENOSYS", "EOPNOTSUPP", "EPERM"])
def test_bodies_are_whole_where_sendfile_fails(place, tmp_path, error):
    """A filesystem without it, or a sandbox that forbids it: the bytes are copied, at any speed of the reader."""
    size = 64 * data.MIB + 1
    body, signer = place.bodies[size], wire.Signer()
    with trace.Trace(place.plain, tmp_path / "trace", calls="sendfile", fails=("sendfile",), error=error) as traced:
        for first, last in ((0, size - 1), (size - 3 * data.MIB - 5, size - 1)):
            with wire.Connection(place.plain) as connection:
                answer = connection.ask("GET", f"/bucket-one/{size}", headers={"range": f"bytes={first}-{last}"}, signer=signer)
            assert answer.status == 206 and answer.body == body[first:last + 1]
        with wire.Connection(place.plain) as connection:
            assert connection.ask("GET", f"/bucket-one/{INLINE + 1}", signer=signer).body == place.bodies[INLINE + 1]
    tried = [event.failed for event in traced.events if event.name == "sendfile"]
    assert all(tried) and (len(tried) > 60) != bool(server.BESIDE)
