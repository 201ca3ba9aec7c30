"""A file that somebody rewrites in place while S3 reads it: what is served with an MD5 has that MD5.

Three writers (write(2) in the mount, a shared mapping in the mount, straight in the directory) and readers that take
each answer apart: whole and truthful, volatile (an ETag that is no MD5), or cut. The length is TWINTREE_FLUX_READS
(2,000 in tests/full).
"""

import hashlib
import mmap
import os
import pathlib
import re
import subprocess
import threading
import time

import pytest
from lib import faces, s3, server, tables

READS = int(os.environ.get("TWINTREE_FLUX_READS", "60"))
SIZE = 16 * 1024 * 1024
SECONDS = int(os.environ.get("TWINTREE_RACE_SECONDS", "10"))
PIECE = 1024 * 1024
CHECKSUMS = {}


class Rewriter(threading.Thread):
    """Rewrites a file in place, over and over; says when it is at it. Every generation is one byte, repeated."""

    def __init__(self, path, by):
        super().__init__()
        self.path, self.by = path, by
        self.busy, self.done, self.generations = threading.Event(), threading.Event(), 0
        self.failure = None

    def run(self):
        try:
            while not self.done.is_set():
                self.generations += 1
                self.busy.set()
                getattr(self, self.by)(bytes([self.generations % 251 + 1]))
                self.busy.clear()
                time.sleep(0.05)  # a quiet moment between two saves, as a person's editor has
        except BaseException as error:  # what a thread finds is told by the test
            self.failure = error

    def write(self, byte):
        with open(self.path, "r+b", buffering=0) as file:
            for _ in range(SIZE // PIECE):
                file.write(byte * PIECE)

    def one_write(self, byte):
        with open(self.path, "r+b", buffering=0) as file:
            file.write(byte * SIZE)

    def store(self, byte):
        with open(self.path, "r+b") as file, mmap.mmap(file.fileno(), SIZE) as pages:
            for at in range(0, SIZE, PIECE):
                pages[at:at + PIECE] = byte * PIECE


def checksum_of(client, body):
    """The CRC64NVME that S3 computes for a body, kept by its first byte."""
    if body[:1] not in CHECKSUMS:
        CHECKSUMS[body[:1]] = client.put_object(Bucket=faces.SECOND, Key="probe", Body=body)["ChecksumCRC64NVME"]
    return CHECKSUMS[body[:1]]


def get(client, key):
    """One GET by boto3, which sends no retries: (ETag, checksum, body, was it cut)."""
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError
    from urllib3.exceptions import ProtocolError

    answer = client.get_object(Bucket=faces.BUCKET, Key=key)
    try:
        body, cut = answer["Body"].read(), False
    except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, ProtocolError, ConnectionError):
        body, cut = b"", True
    return answer["ETag"].strip('"'), answer.get("ChecksumCRC64NVME"), body, cut


WRITERS = [(by, "mount", mode) for by in ("write", "one_write", "store") for mode in ("plain", "passthrough")]


@pytest.mark.parametrize("by, face, mode", [*WRITERS, ("one_write", "disk", "auto"), ("store", "disk", "auto")])
def test_no_body_comes_with_an_md5_of_other_bytes(tmp_path, by, face, mode):
    counts = {"whole": 0, "in flux": 0, "torn": 0, "cut": 0, "during a write": 0}
    with faces.Faces(tmp_path, "--mount-mode", mode) as both:
        both.client.put_object(Bucket=faces.BUCKET, Key="file", Body=b"\1" * SIZE)
        client = s3.client(both.daemon.url, response_checksum_validation="when_required")
        writer = Rewriter(both.on(face, "file"), by)
        writer.start()
        try:
            for _ in range(READS):
                writer.busy.wait(5)
                during = writer.busy.is_set()
                etag, checksum, body, cut = get(client, "file")
                counts["during a write"] += during
                if cut:
                    counts["cut"] += 1
                    continue
                promised = bool(re.fullmatch("[0-9a-f]{32}(-[0-9]+)?", etag)) and not etag.endswith("-1") or checksum
                counts["whole" if promised else "in flux"] += 1
                counts["torn"] += len(set(body[::4096])) > 1
                faces.assert_truthful("file", etag, body)
                if checksum:
                    # Every generation is one byte, repeated: the checksum of whole ones is asked of S3 itself, once each.
                    assert len(set(body)) == 1 and checksum == checksum_of(both.client, body), "a checksum of other bytes"
                assert len(body) == SIZE
        finally:
            writer.done.set()
            writer.join(60)
        assert writer.failure is None
        assert counts["during a write"] > 0, "no GET met the writer: this round proves nothing"
        if face == "mount":
            assert both.client.head_object(Bucket=faces.BUCKET, Key="file")["ContentLength"] == SIZE
    tables.say(f"in flux: {by} in the {face}, {mode}", [tuple(counts), tuple(counts.values())])


def closed(both, key, made):
    """Waits until the kernel has told the daemon of the last close, which it does a moment after close(2): until then a
    file counts as open. Its ETag is then what it was."""
    server.wait_until(lambda: s3.etag(both.client, faces.BUCKET, key) == made["ETag"].strip('"'), "it is closed", seconds=5)


def test_a_ranged_download_of_a_quiet_open_log_works(tmp_path, random):
    """The salted ETag holds while nobody writes, so that a client that asks for the rest by If-Match gets it."""
    body = random.bytes(300_000)
    with faces.Faces(tmp_path) as both, open(both.on("mount", "log"), "w+b", buffering=0) as log:
        log.write(body)
        first = both.client.get_object(Bucket=faces.BUCKET, Key="log", Range="bytes=0-99999")
        assert not re.fullmatch("[0-9a-f]{32}", first["ETag"].strip('"'))
        rest = both.client.get_object(Bucket=faces.BUCKET, Key="log", Range="bytes=100000-", IfMatch=first["ETag"])
        assert first["Body"].read() + rest["Body"].read() == body
        log.write(b"one line more")
        s3.refused(412, "PreconditionFailed", both.client.get_object, Bucket=faces.BUCKET, Key="log", IfMatch=first["ETag"])


def test_conditional_writes_take_an_open_file_for_changed(tmp_path):
    with faces.Faces(tmp_path) as both:
        made = both.client.put_object(Bucket=faces.BUCKET, Key="file", Body=b"one")
        with open(both.on("mount", "file"), "r+b"):
            s3.refused(412, "PreconditionFailed", both.client.put_object, Bucket=faces.BUCKET, Key="file", Body=b"two",
                       IfMatch=made["ETag"])
        closed(both, "file", made)
        both.client.put_object(Bucket=faces.BUCKET, Key="file", Body=b"two", IfMatch=made["ETag"])


def test_an_open_and_close_without_a_write_keeps_the_etag(tmp_path, random):
    with faces.Faces(tmp_path) as both:
        made = both.client.put_object(Bucket=faces.BUCKET, Key="file", Body=random.bytes(4000))
        with open(both.on("mount", "file"), "r+b"):
            assert both.client.head_object(Bucket=faces.BUCKET, Key="file")["ETag"] != made["ETag"]
        closed(both, "file", made)


@pytest.mark.skipif(os.geteuid() != 0, reason="dropping the kernel's caches needs root")
def test_a_file_whose_name_the_kernel_had_dropped_counts_as_open(tmp_path, random):
    """The mount holds inodes by handle: one whose name left the kernel's cache must still be known for what it is."""
    with faces.Faces(tmp_path) as both:
        made = both.client.put_object(Bucket=faces.BUCKET, Key="a/b/file", Body=random.bytes(4000))
        held = os.open(both.on("mount", "a/b/file"), os.O_PATH)
        try:
            subprocess.run(["sync"], check=True)
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("2")
            with open(f"/proc/self/fd/{held}", "r+b", buffering=0):
                assert both.client.head_object(Bucket=faces.BUCKET, Key="a/b/file")["ETag"] != made["ETag"]
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("2")
            os.setxattr(f"/proc/self/fd/{held}", "user.colour", b"red")
        finally:
            os.close(held)
        closed(both, "a/b/file", made)


def test_a_written_file_is_sealed_after_a_quiet_time(tmp_path, random):
    body = random.bytes(70_000)
    with faces.Faces(tmp_path) as both:
        both.on("mount", "file").write_bytes(body)
        before = both.client.head_object(Bucket=faces.BUCKET, Key="file")["ETag"]
        assert before.strip('"') != hashlib.md5(body).hexdigest()
        server.wait_until(lambda: s3.etag(both.client, faces.BUCKET, "file") == hashlib.md5(body).hexdigest(),
                          "the sealer has read it", seconds=40)
        both.client.get_object(Bucket=faces.BUCKET, Key="file", IfMatch=before)["Body"].read()


class Racer(threading.Thread):
    """Writes keys that others write as well, by one face, until told to rest."""

    def __init__(self, both, face, number, gate):
        super().__init__()
        self.both, self.face, self.number, self.gate, self.failure, self.turns = both, face, number, gate, None, 0
        self.client = s3.client(both.daemon.url)

    def run(self):
        try:
            while self.gate.enter():
                self.turns += 1
                self.turn(f"key-{(self.turns * 7 + self.number) % 12}", f"{self.face} {self.number} {self.turns} ".encode() * 500)
                self.gate.leave()
        except BaseException as error:  # what a thread finds is told by the test
            self.failure = error
            self.gate.leave()

    def turn(self, key, body):
        if self.face == "s3":
            if self.turns % 5 == 0:
                self.client.delete_object(Bucket=faces.BUCKET, Key=key)
            else:
                self.client.put_object(Bucket=faces.BUCKET, Key=key, Body=body)
            return
        path = self.both.on(self.face, key)
        with faces.absent():
            if self.turns % 5 == 0:
                path.unlink()
            elif self.turns % 5 == 1:
                path.rename(self.both.on(self.face, f"key-{self.turns % 12}"))
            elif self.turns % 5 == 2:
                with open(path, "r+b", buffering=0) as file:
                    file.write(body)
            else:
                path.write_bytes(body)


class Gate:
    """Lets racers run, and at a quiet point waits until all have come to rest."""

    def __init__(self):
        self.condition, self.open, self.inside, self.over = threading.Condition(), True, 0, False

    def enter(self):
        with self.condition:
            self.condition.wait_for(lambda: self.open or self.over, 60)
            self.inside += not self.over
            return not self.over

    def leave(self):
        with self.condition:
            self.inside -= 1
            self.condition.notify_all()

    def rest(self):
        with self.condition:
            self.open = False
            assert self.condition.wait_for(lambda: self.inside == 0, 60), "the racers do not come to rest"

    def go(self, over=False):
        with self.condition:
            self.open, self.over = True, over
            self.condition.notify_all()


@pytest.mark.parametrize("mode", ["plain", "passthrough"])
def test_both_faces_race_and_agree_at_every_quiet_point(tmp_path, mode):
    gate, points = Gate(), 0
    with faces.Faces(tmp_path, "--mount-mode", mode) as both:
        racers = [Racer(both, face, number, gate) for number, face in enumerate(("s3", "s3", "mount", "mount"))]
        for racer in racers:
            racer.start()
        try:
            end, limit = time.monotonic() + SECONDS, time.monotonic() + SECONDS + 120
            while (time.monotonic() < end or points < 2 and time.monotonic() < limit) and all(racer.is_alive() for racer in racers):
                time.sleep(0.5)  # the race itself: there is nothing to wait for
                gate.rest()
                for number in range(12):
                    key = f"key-{number}"
                    by_s3, _ = faces.seen_by_s3(both.client, key)
                    by_mount = faces.seen_in_mount(both.on("mount", key), ("read", "list", "stat"))
                    on_disk = faces.seen_in_mount(both.on("disk", key), ("read", "list", "stat"))
                    assert by_s3 == by_mount == on_disk, key
                points += 1
                gate.go()
        finally:
            gate.go(over=True)
            for racer in racers:
                racer.join(60)
        assert [racer.failure for racer in racers] == [None] * 4
        assert points > 1 and all(racer.turns > 10 for racer in racers)
    tables.say(f"racing faces, {mode}", [("quiet points", "turns by S3", "turns by the mount"),
                                        (points, racers[0].turns + racers[1].turns, racers[2].turns + racers[3].turns)])
