"""Somebody who may write into a bucket's directory, and means no good: no hang, no way out, no fall of the daemon."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import stat
import struct
import subprocess
import threading
import types

import pytest
from lib import data, filesystems, s3, server, tree as trees, wire

F_OFD_SETLK = 37
AT_FDCWD = -100
LONGEST_LINK = 1000 if filesystems.lacks("long links") else 4000
LIBC = ctypes.CDLL(None)


@pytest.fixture
def place(served, client, bucket, tree):
    """A daemon, a client, a bucket and its directory."""
    return types.SimpleNamespace(daemon=served, client=client, bucket=bucket, tree=tree, directory=tree / bucket)


def names(place):
    return list(s3.listed(place.client, place.bucket))


# What somebody who may write into the bucket's directory puts in the place of what is ours.

def put_instead(path, kind):
    """Puts something else in the place of a file or directory."""
    subprocess.run(["rm", "-rf", str(path)], check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        outside = path.parents[len(path.parts) - 1 - path.parts.index("tree")] / "outside"
        outside.mkdir(exist_ok=True)
        path.symlink_to(outside)
    elif kind == "nothing":
        path.touch()
    elif kind == "junk":
        path.write_bytes(b"{" * 5000)


def never_fails(place, asked, seconds=15):
    """Asks each (method, target, body, headers); every answer comes soon and is none of ours to be ashamed of."""
    answers = []
    for method, target, *rest in asked:
        with wire.Connection(place.daemon, seconds=seconds) as connection:
            try:
                answer = connection.ask(method, target, *rest)
            except ConnectionError as closed:
                raise AssertionError(f"{method} {target}: {closed}; {place.daemon.process.poll()}; {place.daemon.words()[-1500:]}") from closed
        assert answer.status < 500 or answer.status == 503, (method, target, answer)
        answers.append(answer)
    assert "panicked" not in place.daemon.words()
    return answers


DAILY = [
    ("GET", "/"), ("GET", "/bucket-one?list-type=2"), ("GET", "/bucket-one?list-type=2&delimiter=/"), ("GET", "/bucket-one/dir/object"),
    ("PUT", "/bucket-one/dir/object", b"new"), ("PUT", "/bucket-one/a//b", b"annexed"), ("GET", "/bucket-one/a//b"), ("DELETE", "/bucket-one/dir/new"),
    ("GET", "/bucket-one?uploads"), ("POST", "/bucket-one/mp?uploads"), ("GET", "/bucket-one?tagging"),
    ("PUT", "/bucket-one/cp", b"", {"x-amz-copy-source": "/bucket-one/dir/object"}),
]


@pytest.mark.parametrize("kind", ["fifo", "socket", "directory", "link", "nothing", "junk"])
@pytest.mark.parametrize("name", ["", "bucket.json", "locks", "locks/mode", "locks/keys", "annex", "stage", "uploads"])
def test_whatever_stands_in_the_place_of_our_files_is_neither_followed_nor_waited_for(daemon, tree, name, kind):
    directory = tree / "bucket-one"
    (directory / "dir").mkdir(parents=True)
    (directory / "dir" / "object").write_bytes(b"plain")
    (tree / "bucket-two").mkdir()
    put_instead(directory / ".twintree" / name, kind)
    place = types.SimpleNamespace(daemon=daemon(tree))
    answers = never_fails(place, DAILY)
    assert b"<Name>bucket-two</Name>" in answers[0].body and b"<Name>bucket-one</Name>" in answers[0].body
    if filesystems.lacks("xattrs") and name == "" and kind != "directory":
        assert answers[3].status == 503, "records lie in there: what is known of the object cannot be said"
    else:
        assert answers[3].body == b"plain"
    assert kind != "link" or not list((tree.parent / "outside").iterdir())
    place.daemon.stop()


@pytest.mark.parametrize("kind", ["fifo", "socket", "directory", "link", "nothing", "junk"])
@pytest.mark.parametrize("name", ["upload.json", "parts", "assembly"])
def test_whatever_stands_in_the_place_of_an_upload_s_files_fails_that_upload_alone(place, name, kind):
    uploads = [place.client.create_multipart_upload(Bucket=place.bucket, Key=key)["UploadId"] for key in ("bad", "good")]
    etag = place.client.upload_part(Bucket=place.bucket, Key="bad", UploadId=uploads[0], PartNumber=1, Body=b"x")["ETag"]
    put_instead(place.directory / ".twintree" / "uploads" / uploads[0] / name, kind)
    part = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>".encode()
    bad = f"/bucket-one/bad?uploadId={uploads[0]}"
    answers = never_fails(place, [
        ("GET", "/bucket-one?uploads"), ("PUT", f"{bad}&partNumber=2", b"y"), ("PUT", f"{bad}&partNumber=1", b"z"), ("GET", bad), ("POST", bad, part), ("DELETE", bad),
        ("PUT", f"/bucket-one/good?uploadId={uploads[1]}&partNumber=1", b"x"), ("POST", f"/bucket-one/good?uploadId={uploads[1]}", part),
    ])
    assert uploads[1].encode() in answers[0].body
    assert [answer.status for answer in answers[-2:]] == [200, 200]
    assert s3.body(place.client, place.bucket, "good") == b"x"


def test_a_key_s_lock_that_somebody_holds_is_not_waited_for_at_the_end(place):
    place.client.put_object(Bucket=place.bucket, Key="key", Body=b"1")
    with open(place.directory / ".twintree" / "locks" / "keys", "r+b") as keys:
        fcntl.fcntl(keys, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        with wire.Connection(place.daemon) as connection:
            every = wire.Signer().headers("PUT", "/bucket-one/key", connection.host, {}, wire.UNSIGNED)
            connection.send("PUT", "/bucket-one/key", every | {"content-length": 1}, b"2")
            assert s3.body(place.client, place.bucket, "key") == b"1", "readers do not wait"
    server.wait_until(lambda: s3.body(place.client, place.bucket, "key") == b"2", "the writer goes on when the lock is free")


# Trees that no person makes.

@pytest.mark.parametrize("name", ["=c", "%=c", "aa=c"])
def test_an_annex_of_any_depth_is_listed_past(place, name):
    place.client.put_object(Bucket=place.bucket, Key="a//b", Body=b"annexed")
    dive(place.directory / ".twintree" / "annex", name, 12_000)
    place.client.put_object(Bucket=place.bucket, Key="n" * 1024, Body=b"long")
    assert names(place) == ["a//b", "n" * 1024]
    never_fails(place, [("DELETE", "/bucket-one"), *DAILY])
    trees.remove(place.directory)


def test_directories_of_any_depth_are_listed_past_and_links_into_them_not_followed_for_ever(place):
    dive(place.directory / "d", "d", 6000)
    (place.directory / "file").write_bytes(b"x")
    (place.directory / "deep").symlink_to("d/" * (LONGEST_LINK // 2) + "d")
    (place.directory / "d" / "deep").symlink_to("d/" * (LONGEST_LINK // 2) + "deep")
    assert names(place) == ["file"]
    never_fails(place, [("GET", "/bucket-one/deep"), ("GET", "/bucket-one/deep/x"), ("DELETE", "/bucket-one"), *DAILY])
    trees.remove(place.directory)


def dive(top, name, depth):
    """Makes directories in each other, deeper than any path can say."""
    top.mkdir(parents=True, exist_ok=True)
    here = os.open(top, os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def test_a_link_whose_target_is_too_long_breaks_neither_its_get_nor_the_listing(place):
    (place.directory / "file").write_bytes(b"x")
    (place.directory / "long").symlink_to("x" * 300)
    (place.directory / "many").symlink_to("many/" * (LONGEST_LINK // 5))
    assert names(place) == ["file"]
    assert [answer.status for answer in never_fails(place, [("GET", "/bucket-one/long"), ("GET", "/bucket-one/many")])] == [404, 403]


INTO_OURS = {
    # a name in the bucket: (what it leads to, the key by which it is asked for)
    "file": (".twintree/secret", "file"),
    "folder": (".twintree", "folder/secret"),
    "dotted": ("./dir/.././/.twintree/secret", "dotted"),
    "inner": (".twintree/inner", "inner/secret"),
    "dir/up": ("../.twintree/secret", "dir/up"),
    "absolute": ("BUCKET/.twintree/secret", "absolute"),
    "chain": ("file", "chain"),
    "capitals": (".TwinTree/secret", "capitals"),
    "lost": ("lost+found/secret", "lost"),
}


@pytest.mark.parametrize("link", INTO_OURS)
def test_no_link_leads_to_what_is_ours_or_hidden(place, link):
    for folder in (".twintree", ".twintree/inner", ".TwinTree", "lost+found", "dir"):
        (place.directory / folder).mkdir(exist_ok=True)
        (place.directory / folder / "secret").write_bytes(b"not an object")
    (place.directory / "dir" / "secret").rename(place.directory / "dir" / "object")
    for name, (target, _) in INTO_OURS.items():
        (place.directory / name).symlink_to(target.replace("BUCKET", str(place.directory)))
    target = f"/bucket-one/{INTO_OURS[link][1]}"
    copied = ("PUT", "/bucket-one/copy", b"", {"x-amz-copy-source": target})
    for answer in never_fails(place, [("GET", target), copied]):
        assert (answer.status, answer.code) == (403, "AccessDenied"), answer
    with wire.Connection(place.daemon) as connection:
        assert connection.ask("HEAD", target).status == 403
    assert names(place) == ["dir/object"]


# Records that somebody wrote by hand.

def record(path, flags=0, count=0, fields=(), seal=None):
    """The 64 bytes of a record that is true of the file, and fields behind them."""
    now = path.stat()
    head = struct.pack("<BBHBBI16sQ", 1, flags, count, 0, 0, 0, b"E" * 16, 0)
    stamp = now.st_size.to_bytes(6, "little") + struct.pack("<qqQ", now.st_mtime_ns, now.st_ctime_ns if seal is None else seal, 0)
    return head + stamp + b"".join(struct.pack("<BH", kind, len(value)) + value for kind, value in fields)


def parts(*runs):
    """Field 3: part sizes without checksums, as (first number, how many, size)."""
    return 3, struct.pack("<BH", 0, sum(run[1] for run in runs)) + b"".join(struct.pack("<HH", *run[:2]) + run[2].to_bytes(6, "little") for run in runs)


FORGED = {
    "nothing": lambda path: b"", "one byte": lambda path: b"\x01", "another version": lambda path: b"\x02" * 80,
    "a seal at the end of time": lambda path: record(path, seal=2**63 - 1), "a seal before time": lambda path: record(path, seal=-2**63),
    "a field that runs over": lambda path: record(path) + b"\x02\xff\xff", "all flags": lambda path: record(path, 255, 65535),
    "a hash of no bytes": lambda path: record(path, 8, fields=[(6, b""), (7, b"")]), "a hash too long for a name": lambda path: record(path, 8, fields=[(7, b"h" * 400)]),
    "fields too long for a name": lambda path: record(path, fields=[(6, b"h" * 400)]), "a hash of nothing there": lambda path: record(path, 8, fields=[(6, b"h" * 32), (7, b"h" * 32)]),
    "many fields": lambda path: record(path, fields=[(200, b"")] * 500), "an upload id of junk": lambda path: record(path, fields=[(4, b"\xff\r\n\0")]),
    "parts larger than the file": lambda path: record(path, 2, 2, [parts((1, 2, 2**48 - 1))]),
    "parts smaller than the file": lambda path: record(path, 2, 2, [parts((1, 2, 16))]),
    "parts behind the end": lambda path: record(path, 2, 2, [parts((1, 1, path.stat().st_size), (2, 1, 70_000))]),
    "as many parts as can be said": lambda path: record(path, 2, 2, [parts((1, 65535, 2**48 - 1))]),
}


def set_record(place, path, record, meta=None):
    """Puts a record, and the metadata that goes with it, where the filesystem keeps them: on the file, or beside it under its
    inode. False: no file here has room for it."""
    if not filesystems.lacks("xattrs"):
        try:
            os.setxattr(path, "user.twintree", record)
        except OSError as error:
            assert error.errno == errno.ENOSPC and filesystems.lacks("large xattrs"), error
            return False
        return True
    folder = place.directory / ".twintree" / "records" / "i"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(path.stat().st_ino)).write_bytes(struct.pack("<I", len(record)) + record + (meta or b""))
    return True


def set_meta(place, path, text):
    """Puts metadata by hand where the filesystem keeps what was said of an object."""
    if filesystems.lacks("xattrs"):
        set_record(place, path, record(path, 8), text)
        return
    try:
        os.setxattr(path, "user.twintree.meta", text)
    except OSError:  # where ours lies that does not fit into an xattr
        digest = hashlib.sha256(text).digest()
        folder = place.directory / ".twintree" / "records"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / digest.hex()).write_bytes(text)
        os.setxattr(path, "user.twintree", record(path, 8, fields=[(7, digest)]))


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_record_costs_its_file_the_etag_and_no_more(place, random, forgery):
    path = place.directory / "object"
    (place.directory / ".twintree" / "records").mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.bytes(5000))
    if not set_record(place, path, FORGED[forgery](path)):
        return  # nobody can forge it here
    target = "/bucket-one/object"
    wanted = {"x-amz-object-attributes": "ETag,Checksum,ObjectParts,StorageClass,ObjectSize", "x-amz-checksum-mode": "ENABLED"}
    tags = b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"
    for method, query in (("HEAD", ""), ("GET", ""), ("GET", "?partNumber=1"), ("GET", "?partNumber=2"), ("GET", "?attributes")):
        with wire.Connection(place.daemon) as connection:
            answer = connection.ask(method, target + query, b"", wanted)
        assert answer.status < 500 or answer.status == 501, answer
        if method == "GET" and answer.status in (200, 206) and query != "?attributes":
            assert answer.body == path.read_bytes(), query
    never_fails(place, [("GET", "/bucket-one?list-type=2"), ("PUT", f"{target}?tagging", tags), ("PUT", "/bucket-one/copy", b"", {"x-amz-copy-source": target})])
    place.client.put_object(Bucket=place.bucket, Key="object", Body=b"new")
    assert s3.etag(place.client, place.bucket, "object") == data.md5(b"new")


def test_metadata_by_hand_never_reaches_the_framing_of_a_reply(place, random):
    path = place.directory / "object"
    path.write_bytes(random.bytes(5000))
    headers = {"transfer-encoding": "chunked", "content-length": "3", "connection": "upgrade", "upgrade": "x", "set-cookie": "a=b", "location": "//evil",
               "content-range": "bytes 0-1/2", "etag": '"forged"', "cache-control": "max-age=1", "expires": "a\r\nset-cookie: b", "Cache-Control": "twice"}
    meta = {"kept": "v\u00fc", "a\r\nset-cookie: c": "d", "e": "f\r\nset-cookie: g", "": "h", "i j": "k"}
    set_meta(place, path, json.dumps({"v": 1, "type": "text/html\r\nset-cookie: l", "headers": headers, "meta": meta}).encode())
    with wire.Connection(place.daemon) as connection:
        for _ in range(2):  # the second shows that the connection is in step
            answer = connection.ask("GET", "/bucket-one/object")
            assert (answer.status, answer.body) == (200, path.read_bytes()), answer
            assert not {"transfer-encoding", "connection", "upgrade", "set-cookie", "location", "content-range", "expires"} & set(answer.headers), answer
            assert answer.headers["cache-control"] == "max-age=1" and answer.headers["content-type"] == "binary/octet-stream"
            assert answer.headers["x-amz-missing-meta"] == "3" and "x-amz-meta-kept" in answer.headers


@pytest.mark.parametrize("entries, size", [(4000, 5), (1, 60_000), (300_000, 0)])
def test_more_metadata_than_a_client_bears_is_counted_and_left_out(place, entries, size):
    path = place.directory / "object"
    path.write_bytes(b"x")
    text = json.dumps({"meta": {f"{n:x}": "v" * size for n in range(entries)}}).encode()
    set_meta(place, path, text)
    with wire.Connection(place.daemon) as connection:
        answer = connection.ask("GET", "/bucket-one/object")
        assert (answer.status, answer.body) == (200, b"x"), answer.status
        assert int(answer.headers["x-amz-missing-meta"]) > 0
        assert sum(len(name) + len(value) for name, value in answer.headers.items()) < 32 << 10
        assert connection.ask("GET", "/bucket-one?list-type=2").status == 200
    assert "panicked" not in place.daemon.words()


def test_marks_of_directories_at_the_ends_of_time_are_listed(place):
    if filesystems.lacks("xattrs"):
        (place.directory / "d").mkdir()
        with pytest.raises(OSError, match="not supported"):
            os.setxattr(place.directory / "d", "user.twintree.dir", struct.pack("<BBq", 1, 3, 0))
        with wire.Connection(place.daemon) as connection:
            assert b"<Key>" not in connection.ask("GET", "/bucket-one?list-type=2").body, "no directory can be marked, and none is an object"
            assert connection.ask("GET", "/bucket-one/d/").status == 404
        return
    for number, moment in enumerate((2**63 - 1, -2**63, 0)):
        folder = place.directory / f"d{number}"
        folder.mkdir()
        os.setxattr(folder, "user.twintree.dir", struct.pack("<BBq", 1, 3, moment))
    with wire.Connection(place.daemon) as connection:
        listed = connection.ask("GET", "/bucket-one?list-type=2")
        assert listed.status == 200 and all(f"<Key>d{n}/</Key>".encode() in listed.body for n in range(3))
        assert [connection.ask(method, f"/bucket-one/d{n}/").status for n in range(3) for method in ("HEAD", "GET")] == [200] * 6


# Names that become something else between two looks.

def exchange(one, other):
    """Swaps two names in one call; what is not there is not swapped."""
    LIBC.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), 2)


def test_a_name_that_turns_into_a_link_out_between_two_looks_is_never_followed(place, random):
    outside = place.tree.parent / "outside"
    (outside / "victim").mkdir(parents=True)
    (outside / "object").write_bytes(b"SECRET")
    for name, target in (("folder", "../../outside"), (".twintree", "../../outside/victim")):
        (place.directory / name).mkdir(exist_ok=True)
        (place.directory / f"{name}.link").symlink_to(target)
    (place.directory / "file.link").symlink_to("../../outside/object")
    ended, rounds = threading.Event(), []

    def swap():
        file, link = place.directory / "file", place.directory / "file.link"
        while not ended.is_set():
            with contextlib.suppress(OSError):  # the daemon writes and deletes there too
                file.unlink(missing_ok=True)
                os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW))
                for name in ("folder", "file", ".twintree", ".twintree", "folder", "file"):
                    exchange(place.directory / name, place.directory / f"{name}.link")
                for name in (file, link):
                    name.unlink(missing_ok=True)
                os.mkfifo(file)
                file.unlink()
                link.symlink_to("../../outside/object")
            rounds.append(None)

    swapper = threading.Thread(target=swap)
    swapper.start()
    copy = {"x-amz-copy-source": "/bucket-one/folder/object"}
    kinds = [("GET", "folder/object"), ("PUT", "folder/object", b"w"), ("PUT", "folder/new", b"w" * 70_000), ("GET", "file"), ("PUT", "file", b"w"), ("HEAD", "file"),
             ("DELETE", "folder/object"), ("DELETE", "file"), ("PUT", "copied", b"", copy), ("PUT", "a//b", b"x"), ("GET", "a//b"), ("POST", "folder/up?uploads"), ("GET", "?list-type=2"), ("GET", "?uploads")]
    try:
        with wire.Connection(place.daemon) as connection:
            for method, key, *rest in kinds * 60:
                answer = connection.ask(method, f"/bucket-one/{key}" if key[0] != "?" else f"/bucket-one{key}", *rest)
                assert answer.status < 500 or answer.status == 503, (method, key, answer.body.decode().splitlines())
                assert b"SECRET" not in answer.body, (method, key)
    finally:
        ended.set()
        swapper.join()
    assert len(rounds) > 100
    assert sorted(str(path.relative_to(outside)) for path in outside.rglob("*")) == ["object", "victim"]
    assert (outside / "object").read_bytes() == b"SECRET"
    assert "panicked" not in place.daemon.words()
