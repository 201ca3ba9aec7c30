"""A file that somebody writes in the mount while S3 reads it, on filesystems with reflinks (xfs, btrfs): each body is the file
as it was at one moment, under an ETag that no other body has, and no answer is cut. On ext4, which has none, the same readers
see bodies that are cut or mixed.

A generation is one byte, in every page. The writers write each generation from the first page to the last, so that at any
moment the file is one generation, or the next one up to some page and the one before from there on.
"""

import contextlib
import hashlib
import itertools
import mmap
import os
import re
import threading

import pytest
from lib import faces, s3, server, tables, tree as trees

READS = int(os.environ.get("TWINTREE_SNAPSHOT_READS", "15"))
SIZE = 16 << 20
PIECE = 1 << 20
PAGE = 4096
GENERATIONS = 250

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the filesystems of this suite are mounted by root")


class Writer(threading.Thread):
    """Rewrites an open file in place, one generation after the other."""

    def __init__(self, path, by, size=SIZE, pause=0):
        super().__init__()
        self.file = os.open(path, os.O_RDWR)
        self.by, self.size, self.pause = by, size, pause
        self.done, self.generations, self.failure = threading.Event(), 0, None

    def __enter__(self):
        self.start()
        server.wait_until(lambda: self.generations > 1 or self.failure, "it writes", seconds=30)
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join(60)
        os.close(self.file)
        assert self.failure is None, self.failure

    def run(self):
        try:
            for self.generations in itertools.count(1):
                if self.done.wait(self.pause):
                    return
                getattr(self, self.by)(self.generations % GENERATIONS + 1)
        except BaseException as error:  # what a thread finds is told by the test
            self.failure = error

    def one_write(self, number):
        assert os.pwrite(self.file, bytes([number]) * self.size, 0) == self.size

    def pieces(self, number):
        for at in range(0, self.size, PIECE):
            os.pwrite(self.file, bytes([number]) * PIECE, at)

    def store(self, number):
        with mmap.mmap(self.file, self.size) as pages:
            for at in range(0, self.size, PAGE):
                pages[at] = number


def is_one_moment(body):
    """Whether a body is one generation, or the next one up to some page."""
    pages = body[::PAGE]
    new, old = pages[:1], pages[-1:]
    first = len(pages) - len(pages.lstrip(new))
    successive = new == old or new[0] == old[0] % GENERATIONS + 1
    return successive and pages == new * first + old * (len(pages) - first)


def read(client, key, **named):
    """One GET without retries: (answer, body); the body is None where it was cut."""
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError
    from urllib3.exceptions import ProtocolError

    answer = client.get_object(Bucket=faces.BUCKET, Key=key, **named)
    try:
        return answer, answer["Body"].read()
    except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, ProtocolError, ConnectionError):
        return answer, None


@contextlib.contextmanager
def faces_on(tmp_path, kind, mode="auto", megabytes=1024):
    """Both faces of a tree on a filesystem of this kind."""
    (tmp_path / "tree").mkdir()
    with trees.Mount(tmp_path / "tree", kind, megabytes), faces.Faces(tmp_path, "--mount-mode", mode) as both:
        yield both


def promise_nothing(answer):
    """No answer about what is being written has an MD5 or a checksum."""
    assert re.fullmatch("[0-9a-f]{32}-1", answer["ETag"].strip('"')), answer["ETag"]
    assert not any(name.startswith("Checksum") for name in answer), answer


# A mapping in a plain mount is the kernel's until msync: what it holds is not in the file. A large write(2) comes in pieces there.
WRITERS = [("one_write", "mount", "passthrough"), ("pieces", "mount", "passthrough"), ("store", "mount", "passthrough"),
           ("pieces", "mount", "plain"), ("one_write", "mount", "plain"), ("one_write", "disk", "auto")]


@pytest.mark.parametrize("by, face, mode", WRITERS)
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_each_body_is_one_moment_and_none_is_cut(tmp_path, kind, by, face, mode):
    counts, bodies = {"whole generations": 0, "between two": 0}, {}
    with faces_on(tmp_path, kind, mode) as both:
        both.on("disk", "file").write_bytes(b"\1" * SIZE)
        client = s3.client(both.daemon.url, response_checksum_validation="when_required")
        with open(both.on("mount", "file"), "r+b"), Writer(both.on(face, "file"), by):
            for _ in range(READS):
                answer, body = read(client, "file")
                promise_nothing(answer)
                assert body is not None and len(body) == SIZE, "a snapshot was cut"
                assert is_one_moment(body), f"pages of several moments: {sorted(set(body[::PAGE]))}"
                assert by != "one_write" or mode == "plain" or len(set(body[::PAGE])) == 1, "half of a write"
                assert bodies.setdefault(answer["ETag"], hashlib.md5(body).digest()) == hashlib.md5(body).digest(), "one ETag of two bodies"
                counts["whole generations" if len(set(body[::PAGE])) == 1 else "between two"] += 1
        assert both.client.head_object(Bucket=faces.BUCKET, Key="file")["ContentLength"] == SIZE
    tables.say(f"snapshots: {by} in the {face}, {mode}, {kind}", [tuple(counts), tuple(counts.values())])


def test_where_there_are_no_reflinks_a_body_is_cut_or_mixed_and_promises_nothing(tmp_path):
    """As it was before there were snapshots; and the proof that the readers above see what they look for."""
    counts = {"whole": 0, "mixed": 0, "cut": 0}
    with faces_on(tmp_path, "ext4") as both:
        both.on("disk", "file").write_bytes(b"\1" * SIZE)
        client = s3.client(both.daemon.url, response_checksum_validation="when_required")
        with Writer(both.on("mount", "file"), "one_write"):
            for _ in range(READS):
                answer, body = read(client, "file")
                promise_nothing(answer)
                counts["cut" if body is None else "whole" if len(set(body[::PAGE])) == 1 else "mixed"] += 1
    tables.say("no snapshots: one_write in the mount, ext4", [tuple(counts), tuple(counts.values())])
    assert counts["cut"] + counts["mixed"] > 0


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_small_file_that_is_rewritten_is_one_moment(tmp_path, kind):
    with faces_on(tmp_path, kind, "passthrough") as both:
        both.on("disk", "file").write_bytes(b"\1" * 50_000)
        with Writer(both.on("mount", "file"), "one_write", 50_000):
            for _ in range(4 * READS):
                answer, body = read(both.client, "file")
                promise_nothing(answer)
                assert len(body) == 50_000 and len(set(body)) == 1


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_ranges_under_one_etag_are_of_one_generation(tmp_path, kind):
    """Each is a snapshot of its own: what was written between two of them shows as 412, and never as bytes that do not fit."""
    counts, size = {"fit": 0, "refused": 0}, 300_000
    with faces_on(tmp_path, kind, "passthrough") as both:
        both.on("disk", "file").write_bytes(b"\1" * size)
        with Writer(both.on("mount", "file"), "one_write", size, pause=0.02):
            for _ in range(4 * READS):
                answer, first = read(both.client, "file", Range="bytes=0-99999")
                try:
                    _, rest = read(both.client, "file", Range="bytes=100000-", IfMatch=answer["ETag"])
                except both.client.exceptions.ClientError as error:
                    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 412, error
                    counts["refused"] += 1
                else:
                    assert len(first + rest) == size and len(set(first + rest)) == 1
                    counts["fit"] += 1
    tables.say(f"snapshots: two ranges under one ETag, {kind}", [tuple(counts), tuple(counts.values())])


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_log_that_grows_meanwhile_is_read_whole(tmp_path, kind):
    """Its length moves between any two looks: an answer has the bytes and the length of one moment."""
    line = b"one line of a log that grows, and no reader sees half of it\n"

    def append(file, done):
        while not done.wait(0.001):  # else it soon is larger than a snapshot may be
            os.write(file, line * 50)

    with faces_on(tmp_path, kind) as both:
        both.on("disk", "log").write_bytes(line * 5000)
        file, done = os.open(both.on("mount", "log"), os.O_WRONLY | os.O_APPEND), threading.Event()
        writer = threading.Thread(target=append, args=(file, done))
        writer.start()
        try:
            for _ in range(READS):
                answer, body = read(both.client, "log")
                assert len(body) == answer["ContentLength"] >= 5000 * len(line)
                assert len(body) % (50 * len(line)) == 0 and body == line * (len(body) // len(line))
                answer, tail = read(both.client, "log", Range="bytes=-1000")
                assert answer["ContentRange"].startswith(f"bytes {int(answer['ContentRange'].split('/')[1]) - 1000}-")
                assert tail == (line * 20)[-1000:]
        finally:
            done.set()
            writer.join(60)
            os.close(file)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_ranged_download_of_a_quiet_open_file_works(tmp_path, random, kind):
    body = random.bytes(3_000_001)
    with faces_on(tmp_path, kind) as both, open(both.on("mount", "log"), "w+b", buffering=0) as log:
        log.write(body)
        etag = both.client.head_object(Bucket=faces.BUCKET, Key="log")["ETag"]
        parts = [s3.body(both.client, faces.BUCKET, "log", Range=f"bytes={at}-{at + 99_999}", IfMatch=etag)
                 for at in range(0, len(body), 100_000)]
        assert b"".join(parts) == body
        assert both.client.head_object(Bucket=faces.BUCKET, Key="log")["ETag"] == etag, "reading moves nothing"
        s3.refused(304, "304", both.client.get_object, Bucket=faces.BUCKET, Key="log", IfNoneMatch=etag)
        log.write(b"one line more")
        s3.refused(412, "PreconditionFailed", both.client.get_object, Bucket=faces.BUCKET, Key="log", IfMatch=etag)


def free(path):
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_slow_client_gets_the_moment_that_it_asked_for(tmp_path, kind):
    """The body outlives rewriting, cutting and removing the file; when it has gone out its blocks are free again."""
    with faces_on(tmp_path, kind) as both:
        both.on("disk", "file").write_bytes(b"\1" * SIZE)
        with open(both.on("mount", "file"), "r+b", buffering=0) as file:
            answer = both.client.get_object(Bucket=faces.BUCKET, Key="file")
            begun = answer["Body"].read(PAGE)
            for number in (2, 3):
                os.pwrite(file.fileno(), bytes([number]) * SIZE, 0)
            os.truncate(file.fileno(), 0)
            os.unlink(both.on("mount", "file"))
            os.sync()
            before = free(both.disk)
            assert begun + answer["Body"].read() == b"\1" * SIZE
        def given_back():
            os.sync()
            return free(both.disk) >= before + SIZE // 2
        server.wait_until(given_back, "its blocks are free", seconds=40)
        assert sorted(os.listdir(both.on("disk", ""))) in ([], [".twintree"])


def test_a_snapshot_is_not_taken_where_its_writer_would_miss_the_room(tmp_path):
    """On a disk that is nearly full the file is read as it is, and who rewrites it in place finds his blocks."""
    with faces_on(tmp_path, "xfs", megabytes=320) as both:
        both.on("disk", "file").write_bytes(b"\1" * SIZE)
        with contextlib.suppress(OSError), open(both.on("disk", "filler"), "wb", buffering=0) as filler:
            os.posix_fallocate(filler.fileno(), 0, free(both.disk) - 3 * SIZE // 2)
        with open(both.on("mount", "file"), "r+b", buffering=0) as file:
            before = free(both.disk)
            assert before < 8 * SIZE
            held = [both.client.get_object(Bucket=faces.BUCKET, Key="file") for _ in range(3)]
            assert all(answer["ContentLength"] == SIZE for answer in held)
            for number in (2, 3):
                os.pwrite(file.fileno(), bytes([number]) * SIZE, 0)
                os.fsync(file.fileno())
            assert abs(free(both.disk) - before) < SIZE // 2, "blocks are shared"
            assert read(both.client, "file")[1] == b"\3" * SIZE
            for answer in held:
                answer["Body"].close()


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_copy_of_what_is_being_written_is_one_moment(tmp_path, kind):
    with faces_on(tmp_path, kind, "passthrough") as both:
        both.on("disk", "file").write_bytes(b"\1" * SIZE)
        with Writer(both.on("mount", "file"), "one_write"):
            for number in range(READS // 5):
                source = {"Bucket": faces.BUCKET, "Key": "file"}
                made = both.client.copy_object(Bucket=faces.SECOND, Key=f"copy-{number}", CopySource=source)
                body = s3.body(both.client, faces.SECOND, f"copy-{number}")
                assert len(body) == SIZE and len(set(body)) == 1
                assert made["CopyObjectResult"]["ETag"].strip('"') == hashlib.md5(body).hexdigest()
