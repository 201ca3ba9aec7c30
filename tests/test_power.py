"""The power goes, at any moment, under clients at work: what was promised before is there afterwards, whole.

The daemon runs on a real filesystem whose disk keeps every write and flush in order (lib/blocklog.py). Clients put,
overwrite, copy, delete and upload in parts, and mark in the disk's own log what they were promised (lib/crowd.py,
lib/promises.py). Then the disk is taken back to random moments, mounted, and served by a daemon that believes in
another boot (lib/aftermath.py). TWINTREE_POWER_CUTS and TWINTREE_POWER_RELAXED_CUTS say how many moments for each
filesystem, TWINTREE_POWER_FILESYSTEMS which ones, TWINTREE_POWER_SEED which moments.
"""

import collections
import os
import random as randomness

import pytest
from lib import aftermath, blocklog, crowd, promises, server, tables

CUTS = {"strict": int(os.environ.get("TWINTREE_POWER_CUTS", "20")), "relaxed": int(os.environ.get("TWINTREE_POWER_RELAXED_CUTS", "8"))}
SEED = os.environ.get("TWINTREE_POWER_SEED", "0")
CLIENTS, TURNS = 6, 36
ROWS = []
COLUMNS = ["filesystem", "durability", "cuts", "answers before a cut", "objects looked at", "derived ETags", "torn files", "bad cuts"]
LONG = pytest.mark.timeout(1000)


def filesystems():
    """The filesystems to cut power under."""
    return os.environ.get("TWINTREE_POWER_FILESYSTEMS", "ext4 xfs").split()


@pytest.fixture(scope="module", autouse=True)
def report():
    """Says at the end how much was looked at."""
    yield
    if ROWS:
        tables.say(f"power cuts, seed {SEED}", [COLUMNS, *ROWS])


@pytest.fixture
def room(tmp_path):
    """Where the images lie."""
    with blocklog.room(tmp_path / "room") as folder:
        yield folder


class Life:
    """Clients at work on a filesystem, and what came to its disk meanwhile."""

    def __init__(self, room, tmp_path, filesystem, durability):
        self.kind, self.durability, self.room, self.folder = blocklog.KINDS[filesystem], durability, room, tmp_path
        self.disk = blocklog.Disk(room, self.kind)
        self.flags = ("--durability", durability)
        self.random = randomness.Random(f"{SEED} {filesystem} {durability}")
        with self.disk:
            self.promises = promises.Promises(self.disk.mark)
            tree = self.disk.top / "tree"
            tree.mkdir()
            top = os.open(self.disk.top, os.O_RDONLY)
            os.fsync(top)
            os.close(top)
            with server.Daemon(tree, tmp_path / "before", *self.flags) as daemon:
                self.live(daemon)
                self.disk.mark("end")
        self.log = blocklog.Log(self.disk.log)
        self.marks = self.log.marks()
        self.promises.place(self.marks)

    def live(self, daemon):
        """Two acts, with a restart between."""
        client = crowd.s3.client(daemon.url)
        number = self.promises.begin(("bucket", "bucket-one"), "made")
        client.create_bucket(Bucket="bucket-one")
        self.promises.ack(number)
        clients = [crowd.Client(f"client-{number}", SEED, self.promises, "bucket-one", self.disk.top) for number in range(CLIENTS)]
        crowd.work(clients, daemon.url, TURNS // 2)
        daemon.restart()
        crowd.work(clients, daemon.url, TURNS // 2)

    def moments(self, count):
        """(position, what the disk kept) of `count` cuts, in the order of time."""
        first, last = self.marks[0][0], self.marks[-1][0]
        positions = sorted(self.random.sample(range(first + 1, last + 1), count))
        kept = self.random.sample([blocklog.KEPT[number % len(blocklog.KEPT)] for number in range(count)], count)
        return list(zip(positions, kept))

    def cuts(self, count, judge):
        """Cuts the power so many times; `judge` looks at what a daemon makes of it. Gives the broken promises in words."""
        replay = blocklog.Replay(self.log, self.disk.base, self.room)
        bad, words, answers, counts = 0, [], [], collections.Counter()
        for number, (position, kept) in enumerate(self.moments(count)):
            image = replay.cut(position, kept, self.random)
            answers.append(self.promises.acks_before(position))
            with blocklog.mounted(image, self.kind, self.room / "again", again=True) as top:
                faults = self.after(top, position, judge, number, counts)
            bad += bool(faults)
            words += [f"after event {position} of {len(self.log.events)} ({kept} of the unflushed): {fault}" for fault in faults[:5]]
        ROWS.append([f"{self.kind.name} {self.kind.options}".strip(), self.durability, count, f"{answers[0]}..{answers[-1]}",
                     counts["seen"], counts["derived"], counts["torn"], bad])
        return words

    def after(self, top, position, judge, number, counts):
        """Starts a daemon on what is left and looks at it."""
        tree = top / "tree"
        if not tree.is_dir():
            return ["the tree itself is gone"]
        wrapper = blocklog.another_boot(self.folder, number)
        with server.Daemon(tree, self.folder / f"after-{number}", *self.flags, wrapper=wrapper) as daemon:
            found = aftermath.Aftermath(daemon, tree, self.promises, position)
            try:
                judge(found)
                found.serves()
            finally:
                found.close()
        counts.update(seen=found.seen, derived=found.derived, torn=found.torn)
        return found.faults


@LONG
@pytest.mark.parametrize("filesystem", filesystems())
def test_strict_loses_nothing_and_tears_nothing(room, tmp_path, filesystem):
    def judge(found):
        found.look(found.strict)
        found.uploads(strict=True)

    bad = Life(room, tmp_path, filesystem, "strict").cuts(CUTS["strict"], judge)
    assert not bad, "\n".join(bad[:20])


@LONG
@pytest.mark.parametrize("filesystem", [{"ext4": "ext4-writeback"}.get(name, name) for name in filesystems()])
def test_relaxed_never_serves_the_etag_of_other_bytes(room, tmp_path, filesystem):
    def judge(found):
        found.look(found.relaxed)
        found.uploads(strict=False)

    bad = Life(room, tmp_path, filesystem, "relaxed").cuts(CUTS["relaxed"], judge)
    assert not bad, "\n".join(bad[:20])


def test_a_cut_takes_what_was_not_synced_and_keeps_what_was(room):
    """The disk itself: a proof that could not fail would prove nothing."""
    kind = blocklog.KINDS["ext4"]
    with blocklog.Disk(room, kind) as disk:
        for name in ("synced", "lost"):
            with open(disk.top / name, "wb") as file:
                file.write(b"x" * 100_000)
                file.flush()
                if name == "synced":
                    os.fsync(file.fileno())
            disk.mark(name)
    log = blocklog.Log(disk.log)
    position = next(position for position, words in log.marks() if words == ["lost"])
    image = blocklog.Replay(log, disk.base, room).cut(position, "none", randomness.Random(0))
    with blocklog.mounted(image, kind, room / "again") as top:
        assert (top / "synced").read_bytes() == b"x" * 100_000
        assert not (top / "lost").exists() or (top / "lost").stat().st_size == 0


def test_a_register_may_hold_what_was_not_yet_overwritten_for_sure():
    """The judge itself: `a` was acknowledged, `b` began afterwards, `c` beside `b`."""
    said = promises.Promises(lambda *words: None)
    marks = []
    for value in "abc":
        said.begin("name", value)
    for words in (["start", 0], ["ack", 0], ["start", 1], ["start", 2], ["ack", 1], ["ack", 2]):
        marks.append((len(marks), words))
    said.place(marks)
    assert [said.at(position).get("name") for position in range(7)] == [
        None, {"a", None}, {"a"}, {"a", "b"}, {"a", "b", "c"}, {"b", "c"}, {"b", "c"}]


@pytest.mark.parametrize("kept", blocklog.KEPT)
def test_what_a_disk_keeps_is_of_what_it_was_given(kept, random):
    writes = [(number * 10_000, random.bytes(9_000)) for number in range(20)]
    left = blocklog.survivors(writes, kept, random.draw())
    whole = dict(writes)
    for offset, piece in left:
        at = offset % 10_000
        assert whole[offset - at][at:at + len(piece)] == piece
    assert {"none": not left, "all": left == writes, "first": left == writes[:len(left)], "some": 0 < len(left) < 60}[kept]
