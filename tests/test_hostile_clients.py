"""Clients that mean no good: what they send is refused, what they hold is bounded, and nobody else notices."""

import concurrent.futures
import contextlib
import os
import re
import types

import pytest
from lib import data, s3, server, tree as trees, wire

TARGET = "/bucket-one/object"
GIB = 1 << 30


MANY = 40_000
"""Names of 250 bytes: 10 MB of them while a directory is read and sorted."""


@pytest.fixture
def place(served, client, bucket, tree):
    """A daemon, a client, a bucket and its directory."""
    return types.SimpleNamespace(daemon=served, client=client, bucket=bucket, tree=tree, directory=tree / bucket)


def begin(connection, target, announced, sent):
    """Sends the head of a PUT and the beginning of its body."""
    every = wire.Signer().headers("PUT", target, connection.host, {}, wire.UNSIGNED)
    connection.send("PUT", target, every | {"content-length": announced}, sent)


def memory(daemon, kind="VmRSS"):
    """Resident bytes, or those of one kind."""
    with open(f"/proc/{daemon.pid}/status") as status:
        return int(re.search(rf"{kind}:\s+(\d+) kB", status.read())[1]) << 10


# Framing that a proxy may read otherwise.

@pytest.mark.parametrize("framing, status", [
    (["content-length: 5", "transfer-encoding: chunked"], 400), (["transfer-encoding: chunked", "content-length: 5"], 400), (["transfer-encoding: gzip, chunked"], 501), (["transfer-encoding: chunked", "transfer-encoding: chunked"], 501),
    (["transfer-encoding: xchunked", "content-length: 5"], 400), (["content-length: 5", "content-length: 6"], 400), (["content-length: +5"], 400),
    (["content-length: 5, 5"], 400), (["transfer-encoding : chunked"], 400), (["transfer-encoding: chunked, identity"], 400),
])
def test_framing_that_can_be_read_in_two_ways_is_refused_and_ends_the_connection(place, framing, status):
    with wire.Connection(place.daemon) as connection:
        every = wire.Signer().headers("PUT", TARGET, connection.host, {}, wire.UNSIGNED)
        lines = [f"PUT {TARGET} HTTP/1.1", *(f"{name}: {value}" for name, value in every.items()), *framing, "", "5", "abcde", "0", "", ""]
        smuggled = wire.Signer().headers("PUT", "/bucket-one/smuggled", connection.host, {}, wire.UNSIGNED) | {"content-length": 0}
        second = ["PUT /bucket-one/smuggled HTTP/1.1", *(f"{name}: {value}" for name, value in smuggled.items()), "", ""]
        connection.socket.sendall("\r\n".join(lines + second).encode())
        assert connection.answer("PUT").status == status
        with pytest.raises(ConnectionError):
            connection.answer("PUT")
    assert not (place.directory / "smuggled").exists()
    assert not (place.directory / "object").exists()


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "POST"])
@pytest.mark.parametrize("size", [5, 300_000])
def test_a_body_that_nobody_asked_for_never_becomes_the_next_request(place, method, size):
    with wire.Connection(place.daemon) as connection:
        every = wire.Signer().headers(method, "/bucket-one/none", connection.host, {}, wire.UNSIGNED)
        body = b"GET /bucket-one/none HTTP/1.1\r\nhost: x\r\n\r\n".ljust(size, b"x")[:size]
        connection.send(method, "/bucket-one/none", every | {"content-length": size}, body)
        assert connection.answer(method).status in (204, 404, 405)
        try:
            assert connection.ask("GET", "/bucket-one?list-type=2").status == 200
        except (ConnectionError, BrokenPipeError):
            assert size > 100_000, "only a long body ends the connection"


# What an announcement takes.

def test_announced_bytes_take_no_room_from_others(daemon, tmp_path, random):
    folder = tmp_path / "disk"
    with trees.Mount(folder, "ext4", 200) as mount:
        one = daemon(folder)
        client = s3.client(one.url)
        client.create_bucket(Bucket="bucket-one")
        upload = client.create_multipart_upload(Bucket="bucket-one", Key="parts")["UploadId"]
        waiting = [wire.Connection(one) for _ in range(6)]
        for number, connection in enumerate(waiting):
            begin(connection, f"/bucket-one/slow{number}" if number % 2 else f"/bucket-one/parts?uploadId={upload}&partNumber={number + 1}", 100 * data.MIB, b"x")
        server.wait_until(lambda: len(open_unnamed(one)) >= 3, "the bodies are being received")
        body = random.bytes(60 * data.MIB)
        client.put_object(Bucket="bucket-one", Key="whole", Body=body)
        assert s3.body(client, "bucket-one", "whole") == body
        with wire.Connection(one) as connection:
            begin(connection, "/bucket-one/more", GIB, b"x")
            assert connection.answer("PUT").status == 507, "more than the disk has is refused at once"
        for connection in waiting:
            connection.close()
        one.stop()
        mount.detach()


def open_unnamed(daemon):
    """Staged files that the daemon has open."""
    found = []
    for entry in os.scandir(f"/proc/{daemon.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since
            found.append(os.readlink(entry.path))
    return [target for target in found if target.endswith("(deleted)")]


def test_two_hundred_slow_bodies_and_readers_take_little_memory_and_no_thread(place, random):
    (place.directory / "large").write_bytes(random.bytes(32 * data.MIB))
    s3.body(place.client, place.bucket, "large")
    before = memory(place.daemon)
    held = [wire.Connection(place.daemon) for _ in range(200)]
    for number, connection in enumerate(held[:100]):
        begin(connection, f"/bucket-one/slow{number}", 64 * data.MIB, b"x" if number % 2 else random.bytes(300_000))
    for connection in held[100:]:
        connection.send("GET", "/bucket-one/large", wire.Signer().headers("GET", "/bucket-one/large", connection.host, {}, wire.EMPTY))
    place.client.put_object(Bucket=place.bucket, Key="quick", Body=b"x")
    assert s3.body(place.client, place.bucket, "quick") == b"x"
    assert sorted(s3.listed(place.client, place.bucket)) == ["large", "quick"]
    assert memory(place.daemon) - before < 100 << 20
    for connection in held:
        connection.close()
    server.wait_until(lambda: not open_unnamed(place.daemon), "the half bodies are gone")


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"y" * 1000])
def test_a_head_that_never_ends_ends_the_connection(daemon, tree, sent):
    one = daemon(tree, "--header-timeout", "1s")
    with wire.Connection(one) as connection:
        connection.socket.sendall(sent)
        connection.socket.settimeout(10)
        while connection.socket.recv(1000):
            pass


@pytest.mark.parametrize("framed", [False, True])
def test_a_body_that_goes_silent_is_given_up(daemon, tree, framed):
    (tree / "bucket-one").mkdir()
    one = daemon(tree, "--body-timeout", "1s")
    with wire.Connection(one) as connection:
        headers = {"x-amz-decoded-content-length": "4294967295"} if framed else {}
        every = wire.Signer().headers("PUT", TARGET, connection.host, headers, wire.UNSIGNED_TRAILER if framed else wire.UNSIGNED)
        connection.send("PUT", TARGET, every | {"content-length": 4294967400}, b"ffffffff\r\nx")
        answer = connection.answer("PUT")
        assert (answer.status, answer.code) == (400, "RequestTimeout"), answer
    server.wait_until(lambda: not open_unnamed(one), "the half body is gone")


# A directory of many names.

def make_many(directory, count):
    """Empty files with names of 250 bytes."""
    top = os.open(directory, os.O_RDONLY)
    for number in range(count):
        os.close(os.open(f"{number:0250}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=top))
    os.close(top)


def test_what_a_listing_of_a_large_directory_took_is_given_back(daemon, tree):
    """With a small list-cache none of its names is kept, and what they took while they were sorted goes back to the system."""
    (tree / "bucket-one").mkdir()
    make_many(tree / "bucket-one", MANY)
    one = daemon(tree, "--list-cache", "1MiB", "--seal", "off", "--watch", "off")
    client = s3.client(one.url)
    client.head_bucket(Bucket="bucket-one")
    before = memory(one)
    page = client.list_objects_v2(Bucket="bucket-one")
    client.list_objects_v2(Bucket="bucket-one", ContinuationToken=page["NextContinuationToken"])
    assert memory(one) - before < 6 << 20


def test_what_lies_free_between_what_is_used_is_given_back_at_a_rest(daemon, tree):
    """Of the 6 MB that a crowd's bodies leave with the allocator, 0.5 MB at least and mostly 1.4."""
    (tree / "bucket-one").mkdir()
    one = daemon(tree, "--seal", "off", "--watch", "off", "--durability", "relaxed", "--give-back-after", "2s")

    def put(number):
        with wire.Connection(one) as connection:
            for turn in range(60):
                assert connection.ask("PUT", f"/bucket-one/{number}-{turn}", bytes(60_000), payload=wire.UNSIGNED).status == 200

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        list(pool.map(put, range(32)))
    held = memory(one, "RssAnon")
    server.wait_until(lambda: memory(one, "RssAnon") < held - (512 << 10), "what is free is given back")


# A log that cannot be written.

def test_a_log_whose_disk_is_full_costs_no_request(daemon, tree):
    (tree / "bucket-one").mkdir()
    one = daemon(tree, wrapper=["sh", "-c", 'exec "$@" 2>/dev/full', "sh"])
    with wire.Connection(one) as connection:
        for _ in range(3):
            assert connection.ask("PUT", TARGET, b"x").status == 200
            assert connection.ask("GET", "/bucket-one/none").status == 404
            assert connection.ask("GET", TARGET).body == b"x"
