"""One truth: what one face finished, the others see at once, and see right.

Rounds of one change each, of every kind, in three directions. Before a change by S3 the kernel's caches are
filled (entry, attributes, pages, the directory), with a lifetime of an hour, and nothing waits between the answer
and the look. The same rounds with nobody telling the kernel must find stale ones, or these prove nothing.
The length is TWINTREE_COHERENCE_ROUNDS (1,000 in tests/full).
"""

import mmap
import os
import shutil
import time

import pytest
from lib import faces, ordinary, tables, tree

ROUNDS = int(os.environ.get("TWINTREE_COHERENCE_ROUNDS", "12"))
HOUR = ("--mount-ttl", "3600")
LIFETIME = 1.1
"""Seconds after which the kernel asks again for what a direct writer changed."""
QUESTIONS = ("stat", "read", "list")
GONE = (None, None, False)
OPENED = {"plain": 0, "passthrough": 0}
"""Files that were opened in passthrough, as each daemon counted at its end."""


def size_of(random):
    """A size around which pages end, or any."""
    return random.draw().choice((1, 17, 4095, 4096, 4097, 70_000, random.draw().randrange(1, 200_000)))


def whole(body):
    """What is to be seen of an object."""
    return len(body), body, True


class Change:
    """One kind of change: what is there before, what is done on a face, and what all must see of which names then."""

    def __init__(self, before, act):
        self.before, self.act = before, act


def overwrite(grow):
    """A body in the place of another, that is longer, shorter or as long."""
    def act(writer, key, old, random):
        body = random.bytes(max(1, len(old) + grow))
        writer.write(key, body)
        return {key: whole(body)}
    return act


def create(writer, key, _, random):
    body = random.bytes(size_of(random))
    writer.write(key, body)
    return {key: whole(body)}


def delete(writer, key, *_):
    writer.remove(key)
    return {key: GONE}


def rename(writer, key, old, _):
    writer.rename(key, key + "-new")
    return {key: GONE, key + "-new": whole(old)}


def rename_folder(writer, key, old, _):
    folder = os.path.dirname(key)
    writer.rename(folder, folder + "-moved")
    return {key: GONE, key.replace(folder, folder + "-moved", 1): whole(old)}


def link(writer, key, old, random):
    """A second name, and then a write by the first that both show."""
    writer.link(key, key + "-too")
    body = random.bytes(len(old))
    writer.write_in_place(key, body)
    return {key: whole(body), key + "-too": whole(body)}


def mapped(writer, key, old, random):
    """A store into a shared mapping."""
    at = random.draw().randrange(len(old))
    writer.store(key, at, b"\0" if old[at:at + 1] != b"\0" else b"\1")
    body = old[:at] + (b"\0" if old[at:at + 1] != b"\0" else b"\1") + old[at + 1:]
    return {key: whole(body)}


def in_place(writer, key, old, random):
    body = random.bytes(len(old))
    writer.write_in_place(key, body)
    return {key: whole(body)}


def shorten(writer, key, old, _):
    writer.truncate(key, len(old) // 2)
    return {key: whole(old[:len(old) // 2])}


def append(writer, key, old, random):
    more = random.bytes(333)
    writer.append(key, more)
    return {key: whole(old + more)}


BY_ALL = {
    "create": Change(False, create),
    "overwrite, same size": Change(True, overwrite(0)),
    "overwrite, longer": Change(True, overwrite(5000)),
    "overwrite, shorter": Change(True, overwrite(-3000)),
    "delete": Change(True, delete),
}
BY_PATH = BY_ALL | {
    "write in place, same size": Change(True, in_place),
    "append": Change(True, append),
    "truncate": Change(True, shorten),
    "rename": Change(True, rename),
    "rename of a folder": Change(True, rename_folder),
    "hard link": Change(True, link),
    "shared mapping": Change(True, mapped),
}


def disguised(writer, key, old, random):
    """As many other bytes, and mtime put back: only ctime tells."""
    path = writer.path(key)
    before = os.stat(path)
    tree.next_tick(path)
    changed = in_place(writer, key, old, random)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return changed


BY_DIRECT_PATH = BY_PATH | {"write in place, mtime put back": Change(True, disguised)}


def copied(writer, key, _, random):
    body = random.bytes(size_of(random))
    writer.write("source", body)
    writer.copy("source", key)
    return {key: whole(body)}


def completed(writer, key, _, random):
    body = random.bytes(size_of(random))
    writer.upload(key, body)
    return {key: whole(body)}


def delete_many(writer, key, *_):
    writer.write(key + "-too", b"so that there are two")
    writer.remove_all([key, key + "-too"])
    return {key: GONE, key + "-too": GONE}


BY_S3 = BY_ALL | {
    "copy": Change(True, copied),
    "complete": Change(True, completed),
    "delete many": Change(True, delete_many),
}


class Paths:
    """Changes by system calls: in the mount, or straight in the directory."""

    def __init__(self, both, face):
        self.both, self.face = both, face

    def path(self, key):
        return self.both.on(self.face, key)

    def write(self, key, body):
        self.path(key).parent.mkdir(parents=True, exist_ok=True)
        self.path(key).write_bytes(body)

    def write_in_place(self, key, body):
        with open(self.path(key), "r+b", buffering=0) as file:
            file.write(body)

    def append(self, key, body):
        with open(self.path(key), "ab", buffering=0) as file:
            file.write(body)

    def truncate(self, key, size):
        os.truncate(self.path(key), size)

    def store(self, key, at, byte):
        with open(self.path(key), "r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
            pages[at:at + 1] = byte

    def remove(self, key):
        self.path(key).unlink()

    def rename(self, old, new):
        self.path(old).rename(self.path(new))

    def link(self, old, new):
        os.link(self.path(old), self.path(new))


class Requests:
    """Changes by S3."""

    def __init__(self, both):
        self.both = both

    def write(self, key, body):
        self.both.client.put_object(Bucket=faces.BUCKET, Key=key, Body=body)

    def remove(self, key):
        self.both.client.delete_object(Bucket=faces.BUCKET, Key=key)

    def copy(self, source, key):
        self.both.client.copy_object(Bucket=faces.BUCKET, Key=key, CopySource=f"{faces.BUCKET}/{source}")

    def upload(self, key, body):
        named = {"Bucket": faces.BUCKET, "Key": key}
        named["UploadId"] = self.both.client.create_multipart_upload(**named)["UploadId"]
        part = self.both.client.upload_part(**named, PartNumber=1, Body=body)
        self.both.client.complete_multipart_upload(**named, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})

    def remove_all(self, keys):
        self.both.client.delete_objects(Bucket=faces.BUCKET, Delete={"Objects": [{"Key": key} for key in keys]})


@pytest.fixture(params=["plain", "passthrough"])
def mode(request):
    """How the mount reads and writes."""
    return request.param


@pytest.fixture
def both(tmp_path, mode):
    """A tree with both faces, whose kernel keeps what it knows for an hour."""
    with faces.Faces(tmp_path, "--mount-mode", mode, *HOUR) as both:
        yield both
    OPENED[mode] += int(both.said(r"opened_in_passthrough=(\d+)"))


def key_of(turn):
    """Many folders, so that some are young, and each file has neighbours."""
    return f"folder-{turn % 10}-{turn}/below/file"


def fill(both, key):
    """Makes the kernel know all that it may keep of a name: its entry (or that it has none), attributes, pages, folder."""
    path = both.on("mount", key)
    for folder in (path.parent.parent.parent, path.parent.parent, path.parent):
        with faces.absent():
            os.listdir(folder)
    seen = faces.seen_in_mount(path, QUESTIONS)
    with faces.absent():
        os.stat(path.parent)  # after the listing, which makes the kernel forget a directory's times
    return seen


def rounds_by_s3(both, change, random, turns):
    """Makes a change by S3 each turn; gives those after which the mount showed something else."""
    writer, stale = Requests(both), []
    for turn in turns:
        key, old = key_of(turn), None
        if change.before:
            old = random.bytes(size_of(random) + 3001)
            writer.write(key, old)
        elif turn % 2:
            writer.write(os.path.dirname(key) + "/neighbour", b"so that the folder is there, and known")
        before = fill(both, key)
        if before != (whole(old) if change.before else GONE):  # no assert: pytest compares the bodies for minutes
            raise AssertionError(f"round {turn}: stale before the change")
        changed = change.act(writer, key, old, random)
        for name in (os.path.dirname(key), *changed):
            times = [modified(both.on(face, name)) for face in ("mount", "disk")]
            if times[0] != times[1]:
                stale.append((turn, name, *times))
        for name, expected in changed.items():
            seen = faces.seen_in_mount(both.on("mount", name), random.draw().sample(QUESTIONS, 3))
            if seen != expected:
                stale.append((turn, name, seen[0], expected[0], seen[2]))
    return stale


def modified(path):
    """When something was changed last; None where there is nothing."""
    with faces.absent():
        return os.stat(path).st_mtime_ns
    return None


@pytest.mark.parametrize("kind", BY_S3)
def test_mount_shows_what_s3_finished(both, random, kind):
    assert rounds_by_s3(both, BY_S3[kind], random, range(ROUNDS)) == []


@pytest.mark.parametrize("kind", BY_S3)
def test_nobody_tells_and_the_mount_is_stale(tmp_path, random, kind):
    """The counter-proof: what the rounds above find is the telling, not luck."""
    environment = {"TWINTREE_MOUNT_NOTIFY": "off"}
    stale = []
    with faces.Faces(tmp_path, *HOUR, environment=environment) as both:
        for turn in range(0, 40, 10):
            try:
                stale += rounds_by_s3(both, BY_S3[kind], random, range(10))
            except AssertionError as error:
                assert "stale before the change" in str(error), error
                stale.append((turn, kind))
            shutil.rmtree(both.disk / faces.BUCKET)
            (both.disk / faces.BUCKET).mkdir()
    assert stale, "nothing was stale: the rounds would not notice"


def rounds_in_the_mount(both, change, random, turns):
    """Makes a change in the mount each turn; gives those after which S3 showed something else."""
    writer, stale = Paths(both, "mount"), []
    for turn in turns:
        key, old = key_of(turn), None
        if change.before:
            old = random.bytes(size_of(random) + 3001)
            # Half of the files come by S3, with a record that the change must end.
            (Requests(both) if turn % 2 else writer).write(key, old)
        seen, _ = faces.seen_by_s3(both.client, key)
        assert seen == (whole(old) if change.before else GONE), f"round {turn}: wrong before the change"
        for name, expected in change.act(writer, key, old, random).items():
            seen, _ = faces.seen_by_s3(both.client, name)
            if seen != expected:
                stale.append((turn, name, seen[0], expected[0], seen[2]))
    return stale


@pytest.mark.parametrize("kind", BY_PATH)
def test_s3_shows_what_the_mount_finished(both, random, kind):
    assert rounds_in_the_mount(both, BY_PATH[kind], random, range(ROUNDS)) == []


def rounds_in_the_directory(both, change, random, turns):
    """Makes a change in the directory each turn, which S3 must show at once; gives what the mount must show when a second is over."""
    expected, before, writer = {}, {}, Paths(both, "disk")
    for turn in turns:
        if change.before:
            before[key_of(turn)] = random.bytes(size_of(random) + 3001)
            (Requests(both) if turn % 2 else writer).write(key_of(turn), before[key_of(turn)])
        else:
            before[key_of(turn)] = None
    for key in before:
        fill(both, key)
    for key, old in before.items():
        changed = change.act(writer, key, old, random)
        for name, seen in changed.items():
            assert faces.seen_by_s3(both.client, name)[0] == seen, name
        expected |= changed
    return expected


def stale_after_a_lifetime(both, expected, random):
    """The names of which the mount still shows something else."""
    time.sleep(LIFETIME)  # the promise is a lifetime: there is no event to wait for
    return [name for name, seen in expected.items()
            if faces.seen_in_mount(both.on("mount", name), random.draw().sample(QUESTIONS, 3)) != seen]


@pytest.mark.parametrize("kind", BY_DIRECT_PATH)
def test_both_show_what_was_done_in_the_directory(tmp_path, random, kind, mode):
    """S3 at once, without a wait; the mount when a second is over. Nobody watches: that is only for being earlier."""
    with faces.Faces(tmp_path, "--mount-mode", mode, "--watch", "off") as both:
        expected = rounds_in_the_directory(both, BY_DIRECT_PATH[kind], random, range(ROUNDS))
        assert stale_after_a_lifetime(both, expected, random) == []


# --- an ordinary user's own mount ---


@pytest.fixture
def own(tmp_path, request):
    """An ordinary user's tree with both faces, whose kernel keeps what it knows for an hour, or for as long as the test says; the test is his, too."""
    request.node.obj = ordinary.in_his_name(request.node.obj)
    with ordinary.Faces(tmp_path, *getattr(request, "param", HOUR)) as own:
        yield own


def a_few_of_each(changes):
    """(kind's change, its turns): all kinds one after the other, on keys of their own."""
    few = max(2, ROUNDS // len(changes))
    return [(change, range(few * number, few * (number + 1))) for number, change in enumerate(changes.values())]


def test_an_ordinary_users_mount_shows_what_s3_finished(own, random):
    assert [stale for change, turns in a_few_of_each(BY_S3) for stale in rounds_by_s3(own, change, random, turns)] == []


def test_s3_shows_what_was_finished_in_an_ordinary_users_mount(own, random):
    assert [stale for change, turns in a_few_of_each(BY_PATH) for stale in rounds_in_the_mount(own, change, random, turns)] == []


@pytest.mark.parametrize("own", [("--watch", "off")], ids=["nobody watches"], indirect=True)
def test_both_show_what_was_done_in_an_ordinary_users_directory(own, random):
    expected = {}
    for change, turns in a_few_of_each(BY_DIRECT_PATH):
        expected |= rounds_in_the_directory(own, change, random, turns)
    assert stale_after_a_lifetime(own, expected, random) == []


# --- what else S3 and the mount show of each other ---


def test_tags_and_metadata_by_s3_show_as_an_attribute(both):
    both.client.put_object(Bucket=faces.BUCKET, Key="file", Body=b"one", Metadata={"colour": "red"})
    path = both.on("mount", "file")
    assert b'"colour"' in os.getxattr(path, "user.twintree.meta")
    both.client.put_object_tagging(Bucket=faces.BUCKET, Key="file",
                                   Tagging={"TagSet": [{"Key": "state", "Value": "checked"}]})
    assert b'"checked"' in os.getxattr(path, "user.twintree.meta")


def test_a_folder_shows_its_new_time_though_nobody_had_asked_for_the_name(both, random):
    """Of a name that it does not know the kernel draws no conclusion for the folder."""
    for turn in range(ROUNDS):
        Requests(both).write(f"folder/file-{turn}", random.bytes(10))
        assert modified(both.on("mount", "folder")) == modified(both.on("disk", "folder"))


@pytest.mark.parametrize("way", ["put", "delete"])
def test_another_name_of_a_file_counts_one_less_when_s3_takes_its_name(both, random, way):
    for turn in range(ROUNDS):
        key, other, body = f"file-{turn}", both.on("mount", f"other-{turn}"), random.bytes(size_of(random))
        Requests(both).write(key, body)
        os.link(both.on("mount", key), other)
        assert os.stat(other).st_nlink == 2
        Requests(both).write(key, b"another") if way == "put" else Requests(both).remove(key)
        assert (os.stat(other).st_nlink, other.read_bytes()) == (1, body)


def test_buckets_made_and_deleted_by_s3_come_and_go_in_the_mount(both):
    for turn in range(20):
        name = f"fresh-{turn}"
        assert name not in os.listdir(both.mount) and not (both.mount / name).exists()
        both.client.create_bucket(Bucket=name)
        assert (both.mount / name).is_dir() and name in os.listdir(both.mount)
        both.client.delete_bucket(Bucket=name)
        assert not (both.mount / name).exists() and name not in os.listdir(both.mount)


def test_objects_that_are_folders_come_and_go_in_the_mount(both):
    for turn in range(20):
        path = both.on("mount", f"folder-{turn}")
        assert not path.exists() and path.name not in os.listdir(path.parent)
        both.client.put_object(Bucket=faces.BUCKET, Key=f"folder-{turn}/", Body=b"")
        assert path.is_dir() and path.name in os.listdir(path.parent)
        both.client.delete_object(Bucket=faces.BUCKET, Key=f"folder-{turn}/")
        assert not path.exists() and path.name not in os.listdir(path.parent)


def test_a_file_moved_across_buckets_keeps_its_etag(both, random):
    for turn in range(ROUNDS // 4):
        body, key = random.bytes(size_of(random)), f"file-{turn}"
        made = both.client.put_object(Bucket=faces.BUCKET, Key=key, Body=body, Metadata={"from": "one"})
        both.on("mount", key).rename(both.on("mount", key, faces.SECOND))
        assert faces.seen_by_s3(both.client, key)[0] == GONE
        seen, etag = faces.seen_by_s3(both.client, key, faces.SECOND)
        assert seen == whole(body) and etag == made["ETag"].strip('"')
        assert both.client.head_object(Bucket=faces.SECOND, Key=key)["Metadata"] == {"from": "one"}


@pytest.mark.parametrize("face", ["mount", "disk"])
def test_a_folder_moved_across_buckets_is_there_and_nowhere_else(both, random, face):
    for turn in range(ROUNDS):
        body, key, moved = random.bytes(size_of(random)), f"folder-{turn}/below/file", f"moved-{turn}/below/file"
        made = both.client.put_object(Bucket=faces.BUCKET, Key=key, Body=body)
        assert fill(both, key) == whole(body)
        os.rename(both.on(face, f"folder-{turn}"), both.on(face, f"moved-{turn}", faces.SECOND))
        assert faces.seen_by_s3(both.client, key)[0] == GONE
        assert faces.seen_by_s3(both.client, moved, faces.SECOND) == (whole(body), made["ETag"].strip('"'))
        if face == "mount":
            assert faces.seen_in_mount(both.on("mount", key), QUESTIONS) == GONE
        assert faces.seen_in_mount(both.on("mount", moved, faces.SECOND), QUESTIONS) == whole(body)


def test_folders_made_and_removed_in_the_mount_come_and_go_below_and_by_s3(both, random):
    for turn in range(ROUNDS):
        both.on("mount", f"folder-{turn}/below").mkdir(parents=True)
        assert both.on("disk", f"folder-{turn}/below").is_dir()
        assert faces.seen_by_s3(both.client, f"folder-{turn}/")[0] == GONE, "a person's folder is no object"
        both.client.put_object(Bucket=faces.BUCKET, Key=f"folder-{turn}/below/file", Body=random.bytes(10))
        assert os.listdir(both.on("mount", f"folder-{turn}/below")) == ["file"]
        both.client.delete_object(Bucket=faces.BUCKET, Key=f"folder-{turn}/below/file")
        assert os.listdir(both.on("mount", f"folder-{turn}/below")) == [], "and stays when the last object goes"
        shutil.rmtree(both.on("mount", f"folder-{turn}"))
        assert not both.on("disk", f"folder-{turn}").exists()


def test_zz_what_was_measured(mode):
    """Says how many rounds there were. A run that opened no file in passthrough says nothing about passthrough."""
    assert (OPENED[mode] > ROUNDS) == (mode == "passthrough"), f"{OPENED[mode]} files were opened in passthrough"
    tables.say(f"coherence, {mode}", [("direction", "kinds", "rounds each", "stale"),
                                      ("S3 to mount", len(BY_S3), ROUNDS, 0), ("mount to S3", len(BY_PATH), ROUNDS, 0),
                                      ("directory to both", len(BY_DIRECT_PATH), ROUNDS, 0)])
