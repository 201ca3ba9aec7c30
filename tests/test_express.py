"""The express way answers what the whole way would answer, head by head, and leaves everything else to it.

Two daemons on one tree, one of them with the express way closed (TWINTREE_EXPRESS=off), are asked the same. That the
way was taken at all is seen by strace: it sends, and hyper writes vectors.
"""

import concurrent.futures
import contextlib
import datetime
import os
import socket
import threading
import time
import types

import pytest
from lib import data, s3, server, trace, wire

INLINE = 64 << 10
SIZES = [0, 1, 4096, INLINE - 1, INLINE, INLINE + 1]
HELD = 0.03
"""Seconds that `trace.Trace(slow=...)` holds a call."""
CALM = 0.2
"""Seconds after which every clock has ticked, so that what is known of a file is kept."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The two daemons, and objects of every kind."""
    folder = tmp_path_factory.mktemp("express")
    (folder / "root" / "data").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        daemons = {}
        for name in ("on", "off"):
            environment = {**os.environ, "TWINTREE_EXPRESS": name}
            daemons[name] = stack.enter_context(server.Daemon(folder / "root", folder / name, "--seal", "off", environment=environment,
                                                              beside=False))
        client = s3.client(daemons["off"].url)
        source = data.Source("express")
        for size in SIZES:
            client.put_object(Bucket="data", Key=f"size/{size}", Body=source.bytes(size))
        client.put_object(Bucket="data", Key="all", Body=b"all of it", ContentType="text/plain", CacheControl="no-cache",
                          ContentDisposition='attachment; filename="x"', ContentLanguage="ko", ContentEncoding="identity",
                          Metadata={"one": "1", "two": "zwei"}, Tagging="a=b&c=d", ChecksumAlgorithm="SHA256")
        upload = client.create_multipart_upload(Bucket="data", Key="parts", ChecksumAlgorithm="CRC32")["UploadId"]
        part = client.upload_part(Bucket="data", Key="parts", UploadId=upload, PartNumber=1, Body=b"a part", ChecksumAlgorithm="CRC32")
        client.complete_multipart_upload(Bucket="data", Key="parts", UploadId=upload, MultipartUpload={
            "Parts": [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumCRC32": part["ChecksumCRC32"]}]})
        client.put_object(Bucket="data", Key="folder/", Body=b"")
        client.put_object(Bucket="data", Key="a key/with=signs, and 한글 +%", Body=b"named")
        client.put_object(Bucket="data", Key="an/annex//key", Body=b"not a path")
        (folder / "root" / "data" / "direct").write_bytes(b"nobody PUT this")
        (folder / "root" / "data" / "link").symlink_to("direct")
        (folder / "root" / "data" / "a directory").mkdir()
        yield daemons


KEYS = [*(f"size/{size}" for size in SIZES), "all", "parts", "folder/", "folder", "a%20key/with%3Dsigns%2C%20and%20%ED%95%9C%EA%B8%80%20%2B%25",
        "an/annex//key", "direct", "link", "a%20directory", "none", "none/", "../data/direct", ".twintree/x", "%00", "%zz", "%FF", "", "size/"]
MORE = [{}, {"x-amz-checksum-mode": "ENABLED"}, {"x-amz-checksum-mode": "enabled", "accept-encoding": "identity", "user-agent": "a  b"},
        {"range": "bytes=1-2"}, {"if-none-match": "*"}, {"if-match": '"nothing"'}, {"x-amz-expected-bucket-owner": "somebody"}]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("key", KEYS)
def test_both_ways_answer_alike(place, method, key):
    """Each on a connection of its own, so that each is the first there, and all on one."""
    target = f"/data/{key}"
    with wire.Connection(place["on"]) as kept:
        for headers in MORE:
            answers = []
            for name in ("on", "off"):
                with wire.Connection(place[name]) as connection:
                    answers.append(wire.said(connection.ask(method, target, headers=headers, payload=wire.UNSIGNED)))
            answers.append(wire.said(kept.ask(method, target, headers=headers, payload=wire.UNSIGNED)))
            assert answers[0] == answers[1] == answers[2], headers


@pytest.mark.parametrize("flaw", ["secret", "key", "late", "header", "path", "unsigned header", "none", "twice"])
def test_no_way_lets_anybody_in(place, flaw):
    def ask(daemon):
        target, signer, headers = "/data/direct", wire.Signer(), {}
        if flaw == "secret":
            signer = wire.Signer(secret_key="another")
        if flaw == "key":
            signer = wire.Signer(access_key="ANOTHER")
        if flaw == "late":
            signer = wire.Signer(when=datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1))
        with wire.Connection(daemon) as connection:
            headers = signer.headers("GET", target, connection.host, {"user-agent": "one"})
            if flaw == "header":
                headers["user-agent"] = "two"
            if flaw == "path":
                target = "/data/all"
            if flaw == "unsigned header":
                headers["x-amz-checksum-mode"] = "ENABLED"
            if flaw == "none":
                del headers["authorization"]
            if flaw == "twice":
                headers["Authorization"] = headers["authorization"].replace("Signature=", "Signature=0")
            connection.send("GET", target, headers)
            return connection.answer("GET")

    on, off = (ask(place[name]) for name in ("on", "off"))
    assert (on.status, on.code) == (off.status, off.code)
    assert on.status in (400, 403)
    assert b"nobody PUT this" not in on.body


def test_a_connection_goes_on_whatever_comes_after_what(place):
    """GETs, a PUT, GETs again; heads in pieces; two in one; a body; and everything is answered in its turn."""
    daemon = place["on"]
    signer = wire.Signer()
    with wire.Connection(daemon) as connection:
        def head(method, key, **more):
            headers = signer.headers(method, f"/data/{key}", connection.host) | more
            lines = [f"{method} /data/{key} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
            return "\r\n".join(lines).encode() + b"\r\n\r\n"

        def body(answer):
            return answer.status, answer.body

        for _ in range(3):
            connection.socket.sendall(head("GET", "direct"))
            assert body(connection.answer()) == (200, b"nobody PUT this")
        connection.socket.sendall(head("GET", "direct") + head("GET", "all"))
        assert [body(connection.answer()), body(connection.answer())] == [(200, b"nobody PUT this"), (200, b"all of it")]
    with wire.Connection(daemon) as connection:
        connection.socket.sendall(head("GET", "direct"))
        assert body(connection.answer()) == (200, b"nobody PUT this")
        whole = head("GET", "all")
        for at in range(0, len(whole), 97):
            connection.socket.sendall(whole[at:at + 97])
        assert body(connection.answer()) == (200, b"all of it")
        connection.socket.sendall(head("PUT", "later", **{"content-length": "5"}) + b"later" + head("GET", "later"))
        assert connection.answer("PUT").status == 200
        assert body(connection.answer()) == (200, b"later")
        connection.socket.sendall(head("GET", "all", connection="close"))
        assert body(connection.answer()) == (200, b"all of it")
        assert connection.file.read() == b""


def test_an_answer_that_nobody_takes_yet_arrives_whole_later(place):
    """More answers than the socket's buffers hold, asked for at once on many connections and read late."""
    source = data.Source("express")
    bodies = {size: source.bytes(size) for size in SIZES}
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(wire.Connection(place["on"])) for _ in range(20)]
        for connection in connections:
            connection.send("GET", f"/data/size/{INLINE}", wire.Signer().headers("GET", f"/data/size/{INLINE}", connection.host))
        for connection in connections:
            assert connection.answer().body == bodies[INLINE]


def test_readers_and_a_writer_never_meet_a_torn_body(place):
    """The object is replaced all the time; each body is one of the versions, with its own ETag."""
    client = s3.client(place["on"].url)
    versions = {data.md5(body): body for body in (bytes([65 + number]) * (4096 + number) for number in range(8))}
    client.put_object(Bucket="data", Key="torn", Body=next(iter(versions.values())))
    done = threading.Event()

    def write():
        for _ in range(20):
            for body in versions.values():
                client.put_object(Bucket="data", Key="torn", Body=body)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    with wire.Connection(place["on"]) as connection:
        while not done.is_set() or reads < 200:
            answer = connection.ask("GET", "/data/torn", payload=wire.UNSIGNED)
            assert answer.status == 200
            assert answer.body == versions[answer.headers["etag"].strip('"')]
            reads += 1
    writer.join()


@pytest.mark.parametrize("size, calm, within", [(4096, False, 1), (4096, True, 1), (20_000, True, 1), (20_000, True, 2)])
@pytest.mark.parametrize("held", ["preadv2", "fstat"])
def test_a_body_that_changes_between_the_look_and_the_read_is_not_answered_as_it_was(place, tmp_path, held, size, calm, within):
    """strace holds each read of the file, or each look at it; what is answered then has the ETag of its own bytes. A file
    that was `calm` is read first and looked at once, or twice where it is larger than that first read (16 KiB). The change falls `within` the first or second call that is held."""
    path = place["on"].root / "data" / "held"
    path.write_bytes(b"a" * size)
    seen = {}
    with wire.Connection(place["on"]) as connection, trace.Trace(place["on"], tmp_path / "strace", slow=(held,), calls=f"preadv2,{held}"):
        for turn in range(6):
            if calm:
                time.sleep(CALM)
                assert len({connection.ask("GET", "/data/held").headers["etag"] for _ in range(4)}) == 1
            connection.send("GET", "/data/held", wire.Signer().headers("GET", "/data/held", connection.host))
            time.sleep(HELD * (within - 0.5))  # strace holds each for HELD: this falls within one
            body = bytes([98 + turn]) * size
            with open(path, "r+b") as file:
                file.write(body)
            answer = connection.answer()
            assert answer.status == 200, answer
            seen.setdefault(answer.headers["etag"], set()).add(answer.body)
            seen.setdefault(s3.client(place["off"].url).head_object(Bucket="data", Key="held")["ETag"], set()).add(body)
    assert {tag: len(bodies) for tag, bodies in seen.items() if len(bodies) > 1} == {}


LONG = 48 * data.MIB
"""More than the sockets of both sides hold."""


@pytest.fixture
def long(daemon, tree, tmp_path):
    """A daemon with a long object that it knows, and a connection to it that has the beginning of one more answer."""
    (tree / "data").mkdir()
    path = tree / "data" / "long"
    path.write_bytes(data.Source("long").bytes(LONG))
    one = daemon(tree, "--seal", "off", beside=False)
    time.sleep(CALM)
    target = "/data/long"
    for _ in range(3):
        with wire.Connection(one) as connection:
            assert len(connection.ask("GET", target, payload=wire.UNSIGNED).body) == LONG
    with wire.Connection(one) as connection:
        with trace.Trace(one, tmp_path / "strace", calls="sendto,writev,sendmsg") as traced:
            connection.send("GET", target, wire.Signer().headers("GET", target, connection.host, (), wire.UNSIGNED))
            connection.socket.recv(1, socket.MSG_PEEK)
        assert ways(traced.events) == ["sendto"]
        yield types.SimpleNamespace(daemon=one, connection=connection, path=path)


@pytest.mark.parametrize("change", ["in place", "shorter", "replaced"])
def test_a_long_body_whose_file_changes_on_the_way_is_cut(long, change):
    """But for one that was replaced: who reads an old file goes on reading it."""
    before = long.path.read_bytes()
    if change == "in place":
        with open(long.path, "r+b") as file:
            file.seek(LONG - 1)
            file.write(b"!")
    elif change == "shorter":
        os.truncate(long.path, LONG - data.MIB)
    else:
        long.path.with_name("new").write_bytes(b"new")
        os.replace(long.path.with_name("new"), long.path)
    if change == "replaced":
        assert long.connection.answer().body == before
        return
    with pytest.raises(ConnectionError, match="cut after"):
        long.connection.answer()


def test_a_long_body_on_its_way_arrives_whole_when_the_daemon_ends(long):
    before = long.path.read_bytes()
    ending = threading.Thread(target=long.daemon.stop)
    ending.start()
    assert long.connection.answer().body == before
    ending.join()


def test_two_long_bodies_and_a_short_one_come_in_their_order_on_one_connection(long):
    before = long.path.read_bytes()
    long.daemon.root.joinpath("data", "short").write_bytes(b"short")
    assert long.connection.answer().body == before
    for key, body in (("long", before), ("short", b"short"), ("long", before)):
        assert long.connection.ask("GET", f"/data/{key}", payload=wire.UNSIGNED).body == body


def ways(events):
    """Which way each answer went: the express way sends, hyper writes vectors."""
    return [event.name for event in events if "HTTP/1.1 200" in event.words]


TURNS = 40
"""Requests within which a connection has gone back: where the next one is here before hyper was polled once more, it is hyper's too."""


PAUSE = 0.01
"""Seconds before each request, within which hyper is polled once more."""
LINKS = 50
"""So many heads in a row that are declined on the express way: it would be tried up to twenty-five times."""


def test_a_connection_comes_back_to_the_express_way(place, tmp_path):
    """After two heads in a row that could have gone it, and no sooner; not where it could not answer them; later then."""
    with wire.Connection(place["on"]) as connection, trace.Trace(place["on"], tmp_path / "strace", calls="sendto,writev") as traced:
        for key in ["direct", "put", *["direct"] * TURNS]:
            time.sleep(PAUSE)
            answer = connection.ask("PUT" if key == "put" else "GET", f"/data/{key}", b"x" * (INLINE + 1) if key == "put" else b"", payload=wire.UNSIGNED)
            assert answer.status == 200
    went = ways(traced.events)
    assert went[:4] == ["sendto", "writev", "writev", "writev"] and went[-1] == "sendto", went
    root = place["on"].root
    with wire.Connection(place["on"]) as connection, trace.Trace(place["on"], tmp_path / "again", calls="sendto,writev,openat2", shown=200) as traced:
        for key in ["link"] * LINKS + ["direct"] * TURNS:
            time.sleep(PAUSE)
            assert connection.ask("GET", f"/data/{key}", payload=wire.UNSIGNED).status == 200
    # A link is followed by who may wait: declined, the connection stays away for four heads, for eight, and so on.
    declined = sum(event.name == "openat2" and f'"{root}/data/link"' in event.words for event in traced.events)
    assert 2 <= declined <= 5, declined
    went = ways(traced.events)
    assert went[:LINKS] == ["writev"] * LINKS and went[-1] == "sendto", went


def test_beside_the_console_every_answer_tells_browsers_what_they_may_do(daemon, tree):
    (tree / "data").mkdir()
    (tree / "data" / "page.html").write_bytes(b"<script>1</script>")
    one = daemon(tree, "--console", "s3", "--seal", "off", beside=False)
    time.sleep(CALM)
    for method in ("GET", "HEAD") * 3:
        with wire.Connection(one) as connection:
            headers = connection.ask(method, "/data/page.html", payload=wire.UNSIGNED).headers
        assert (headers["content-security-policy"], headers["x-content-type-options"]) == ("sandbox", "nosniff")


STEPS = 300
"""Requests of each connection in the test below."""


def test_whatever_order_requests_come_in_each_gets_its_own_answer(place):
    """Every connection mixes small and large reads, what is not there, ranges, bodies in every form, bodies that nobody reads,
    and requests that do not wait for the answer before; what each must get is known."""
    daemon = place["on"]
    source = data.Source("express")
    sizes = {size: source.bytes(size) for size in SIZES}

    def work(number):
        draw = data.Source(f"order {number}").draw()
        mine = {}
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(wire.Connection(daemon))
            expected = []

            def send(method, target, status, body, sent=b"", headers=(), payload=wire.UNSIGNED):
                signer = wire.Signer()
                every = signer.headers(method, target, connection.host, headers, payload)
                if payload == wire.SIGNED_CHUNKS:
                    sent = wire.signed_chunks(signer, sent, 9000)
                if method == "PUT":
                    every["content-length"] = len(sent)
                connection.send(method, target, every, sent)
                expected.append((method, status, body))

            def step():
                kind = draw.choice(["small", "small", "small", "small", "large", "head", "none", "range", "put", "chunks", "mine", "delete", "refused"])
                key = f"{number}-{draw.randrange(5)}"
                if kind in ("small", "head"):
                    size = draw.choice([size for size in SIZES if size <= INLINE])
                    send("HEAD" if kind == "head" else "GET", f"/data/size/{size}", 200, b"" if kind == "head" else sizes[size])
                elif kind == "large":
                    send("GET", f"/data/size/{INLINE + 1}", 200, sizes[INLINE + 1])
                elif kind == "none":
                    send(draw.choice(["GET", "HEAD"]), f"/data/none/{key}", 404, None)
                elif kind == "range":
                    send("GET", "/data/size/4096", 206, sizes[4096][5:90], headers={"range": "bytes=5-89"})
                elif kind == "put":
                    mine[key] = draw.randbytes(draw.choice([0, 1, 5000, 300_000]))
                    send("PUT", f"/data/mix/{key}", 200, b"", mine[key])
                elif kind == "chunks":
                    mine[key] = draw.randbytes(draw.choice([1, 5000, 30_000]))
                    send("PUT", f"/data/mix/{key}", 200, b"", mine[key], {"x-amz-decoded-content-length": str(len(mine[key]))}, wire.SIGNED_CHUNKS)
                elif kind == "mine":
                    send("GET", f"/data/mix/{key}", 200 if key in mine else 404, mine.get(key))
                elif kind == "delete":
                    mine.pop(key, None)
                    send("DELETE", f"/data/mix/{key}", 204, b"")
                else:
                    # Refused before its body is read, which comes nevertheless and is no request.
                    send("PUT", f"/none-{number}/{key}", 404, None, b"GET /data/direct HTTP/1.1\r\n\r\n" * draw.choice([1, 500]))

            def check():
                method, status, body = expected.pop(0)
                answer = connection.answer(method)
                assert answer.status == status, (method, status, answer)
                assert body is None or answer.body == body, (method, status)

            for _ in range(STEPS):
                step()
                if draw.random() < 0.2:
                    step()
                while expected:
                    check()

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
