"""What programs do with files, through the mount and beside it.

Four places, each with the same files: a bare directory, a mount with passthrough, a plain one, and rclone's mount
of the gateway that the first of them has. A sample is one program that does one thing in one place.
"""

import dataclasses
import os
import re
import time

from lib import mountpoint, server

from . import place, servers
from .cases import KIB, MIB, Case
from .client import Sample

BUCKET = "data"
HOT, NAMES = 1000, 20_000
SMALL = KIB
"""Bytes of a file that is made."""
POLL_SECONDS = 0.002
UPLOAD_SECONDS = 60


@dataclasses.dataclass
class Scale:
    """How much of everything a run does."""

    rounds: int
    large: int          # bytes of the large file
    passes: int         # over it, when it is read
    random: int         # reads of 4 KiB
    made: int           # files
    stats: int
    seconds: int        # no further round starts after so long


FULL = Scale(rounds=5, large=256 * MIB, passes=8, random=400_000, made=2000, stats=400_000, seconds=130)
QUICK = Scale(rounds=2, large=64 * MIB, passes=4, random=100_000, made=500, stats=100_000, seconds=30)


class Bare:
    """The directory itself."""

    label = "bare"
    is_slow = False
    """Whether it gets less to do, since all would wait for it."""

    def __init__(self, tree):
        self.tree = tree
        self.path = tree / BUCKET
        self.opens = 0

    def cpu(self):
        """CPU seconds of all servers behind it, so far."""
        return 0.0

    def arrived(self, paths):
        """Returns when what was written at these paths lies on the disk under its name: here at close(2)."""


class Mounted(Bare):
    """`twintree serve --mount`. What its log says of passthrough must be so, or nothing is measured."""

    def __init__(self, tree, folder, mode):
        super().__init__(tree)
        self.label, self.mode = mode, mode
        self.mount = folder / f"{mode}-mount"
        self.path = self.mount / BUCKET
        self.server = servers.Twintree(tree, folder / mode, "strict", "--mount", self.mount, "--mount-mode", mode, log="warn,twintree_fuse=info")

    def cpu(self):
        return self.server.cpu()

    def __enter__(self):
        self.mount.mkdir()
        self.server.start()
        try:
            server.wait_until(lambda: mountpoint.is_mounted(self.mount), "the mount stands")
            self._must_say(r'reading_and_writing="?(\w+)', lambda said: said == self.mode)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *failure):
        try:
            self.server.stop()
        finally:
            self.server.daemon.kill()
            mountpoint.unmount(self.mount)
        if not any(failure):
            through = self.mode == "passthrough"
            self._must_say(r"opened_in_passthrough=(\d+)", lambda said: int(said) >= self.opens if through else said == "0")

    def _must_say(self, pattern, right):
        text = re.sub(r"\x1b\[[0-9;]*m", "", self.server.daemon.log.read_text(errors="replace"))
        said = re.findall(pattern, text)
        if not said or not right(said[-1]):
            raise SystemExit(f"this is no measurement of {self.mode} ({self.opens} files were opened): {text[-2000:]}")


class Rclone(servers.Peer):
    """rclone's mount of a gateway's bucket."""

    label = "rclone"
    is_slow = True

    def __init__(self, behind, folder, binary):
        super().__init__(behind.tree, folder / "rclone")
        self.behind, self.binary = behind, binary
        self.tree = behind.tree
        self.path = folder / "rclone-mount"
        self.opens = 0

    def command(self):
        return [self.binary, *self.arguments("rclone.args", BUCKET=BUCKET, MOUNT=self.path, GATEWAY=self.behind.server.address,
                                             ACCESS=server.ACCESS_KEY, SECRET=server.SECRET_KEY)]

    def start(self):
        self.path.mkdir()
        super().start()

    def is_ready(self):
        return mountpoint.is_mounted(self.path)

    def stop(self):
        super().stop()
        mountpoint.unmount(self.path)

    def cpu(self):
        """rclone's and the gateway's."""
        return super().cpu() + self.behind.cpu()

    def arrived(self, paths):
        """It uploads a file after close(2) has returned."""
        deadline = time.monotonic() + UPLOAD_SECONDS
        for path in paths:
            on_disk = self.tree / BUCKET / path.relative_to(self.path)
            while not on_disk.exists():
                if time.monotonic() > deadline:
                    raise SystemExit(f"rclone has not uploaded {path} after {UPLOAD_SECONDS} s")
                time.sleep(POLL_SECONDS)


def prepare(trees, scale, client):
    """The files of each tree, made on the disk before anybody serves it: nobody has looked at them yet."""
    for tree in trees:
        bucket = tree / BUCKET
        bucket.mkdir(parents=True)
        client.files("write", bucket / "large", scale.large, block=MIB)
        (bucket / "hot").mkdir()
        client.files("create", bucket / "hot", HOT, size=SMALL)
        for turn in range(scale.rounds):
            folder = bucket / f"names-{turn}"
            folder.mkdir()
            client.files("create", folder, NAMES, size=0)
    place.flush(trees[0])


class Work:
    """The operations, each in one of the places."""

    def __init__(self, places, scale, client):
        self.places, self.scale, self.client = places, scale, client

    def sample(self, there, op, path, count, work, *, opens=0, made=(), **options):
        """Does it once; gives what it cost, with all that the servers did for it."""
        place.flush(there.tree)
        before = there.cpu()
        wall, cpu = self.client.files(op, there.path / path, count, **options)
        ended = time.monotonic()
        there.arrived(made)
        if made:
            wall += time.monotonic() - ended
        daemon = there.cpu() - before
        there.opens += opens
        return Sample(cpu + daemon, wall, work, daemon)

    def write(self, there, turn, block):
        name, size = f"written-{there.label}-{block}-{turn}", self.scale.large // (4 if there.is_slow else 1)
        got = self.sample(there, "write", name, size, size / 1e9, opens=1, made=[there.path / name], block=block)
        self.client.files("check", there.tree / BUCKET / name, size)
        (there.tree / BUCKET / name).unlink()
        return got

    def rewrite(self, there, _turn):
        size = self.scale.large
        return self.sample(there, "rewrite", "large", size, size / 1e9, opens=1, block=MIB)

    def read(self, there, _turn):
        size, passes = self.scale.large, 1 if there.is_slow else self.scale.passes
        self.client.files("check", there.path / "large", size)  # warms what keeps anything
        there.opens += 1
        return self.sample(there, "read", "large", size, size * passes / 1e9, opens=passes, block=MIB, passes=passes)

    def random(self, there, _turn):
        count = self.scale.random
        return self.sample(there, "random", "large", count, count, opens=1, size=self.scale.large)

    def create(self, there, turn):
        count = self.scale.made // (20 if there.is_slow else 1)
        name = f"made-{there.label}-{turn}"
        (there.path / name).mkdir()
        made = [there.path / name / f"file-{n:015}.bin" for n in range(count)]
        got = self.sample(there, "create", name, count, count, opens=count, made=made, size=SMALL)
        on_disk = there.tree / BUCKET / name
        for entry in list(os.scandir(on_disk)):
            if entry.stat().st_size != SMALL:
                raise SystemExit(f"{entry.path} has {entry.stat().st_size} bytes")
            os.unlink(entry.path)
        on_disk.rmdir()
        return got

    def stat(self, there, _turn):
        return self.sample(there, "stat", "hot", self.scale.stats, self.scale.stats, files=HOT)

    def list(self, there, turn):
        return self.sample(there, "list", f"names-{turn}", NAMES, NAMES)

    def stat_each(self, there, turn):
        count = NAMES // (10 if there.is_slow else 1)
        return self.sample(there, "stat", f"names-{turn}", count, count, files=count)


def all_cases(work):
    """Every case, in the order in which a round runs them. An aim is a share of the bare directory's speed."""

    def case(name, unit, measure, aim=None, without=""):
        variants = {there.label: (lambda turn, there=there: measure(there, turn)) for there in work.places if there.label != without}
        return Case(name, unit, variants, "passthrough", "bare", aim)

    return [
        case("sequential write, new file, blocks of 1 MiB", "GB", lambda there, turn: work.write(there, turn, MIB), 0.7),
        case("sequential write, new file, blocks of 4 KiB", "GB", lambda there, turn: work.write(there, turn, 4 * KIB), 0.7),
        case("sequential write in place, blocks of 1 MiB", "GB", work.rewrite, 0.7, without="rclone"),
        case("sequential read, blocks of 1 MiB, warm", "GB", work.read, 0.75),
        case("random read of 4 KiB, warm", "read", work.random, 0.75),
        case("create a file of 1 KiB", "file", work.create),
        case("stat, hot, 1,000 files", "stat", work.stat, 0.3),
        case("readdir of 20,000 files, for the first time", "entry", work.list),
        case("stat of each of these, for the first time", "stat", work.stat_each),
        case("readdir of 20,000 files, again", "entry", work.list),
    ]
