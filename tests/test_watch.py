"""What direct writers do is heard of early: sealed without being asked for, shown in the mount; turned off, nothing becomes wrong."""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time

import pytest
from lib import admin, data, faces, server, s3, tools, trace, tree as trees

BUCKET = "bucket-one"
QUICK = ["--seal-after", "1s"]
RECORD = "user.twintree"
LONG = ["--mount-ttl", "3600s"]


@pytest.fixture
def folder(tree):
    """A bucket that is there before any daemon."""
    path = tree / BUCKET
    path.mkdir()
    return path


def is_sealed(path):
    """Asked of the disk, so that no request can be what brought it about."""
    return RECORD in os.listxattr(path)


def ready(one):
    """The watcher has laid what it will lay, and has said so."""
    return server.wait_until(lambda: re.search(r"heard of at once in .*", one.log.read_text()), "the watcher says what it watches").group(0)


def copied(body, folder, name):
    """A file that came by cp."""
    source = folder.parent.parent / "source"
    source.write_bytes(body)
    subprocess.run(["cp", str(source), str(folder / name)], check=True)
    return folder / name


# Sealing.

def test_what_cp_brought_is_sealed_without_a_request_and_its_first_etag_still_counts(daemon, tree, folder, random):
    one = daemon(tree, "--seal-after", "4s")
    ready(one)
    client = s3.client(one.url)
    asked, unasked = random.bytes(70_000), random.bytes(50_000)
    path = copied(asked, folder, "asked")
    derived = s3.etag(client, BUCKET, "asked")
    assert derived.endswith("-1")
    other = copied(unasked, folder, "unasked")
    server.wait_until(lambda: is_sealed(path) and is_sealed(other), "both are sealed", 60)
    assert s3.etags_everywhere(client, BUCKET, "unasked") == {data.md5(unasked)}
    assert s3.etags_everywhere(client, BUCKET, "asked") == {data.md5(asked)}
    assert s3.body(client, BUCKET, "asked", IfMatch=f'"{derived}"') == asked
    head = client.head_object(Bucket=BUCKET, Key="unasked", ChecksumMode="ENABLED")
    assert head["ChecksumCRC64NVME"]


@pytest.mark.parametrize("way", ["new folder", "moved in", "overwritten", "renamed"])
def test_every_way_of_arriving_is_sealed(daemon, tree, folder, random, tmp_path, way):
    old, new = random.bytes(3_000), random.bytes(3_000)
    (folder / "old").write_bytes(old)
    one = daemon(tree, *QUICK)
    ready(one)
    path = folder / "a" / "b" / "new"
    if way == "new folder":
        path.parent.mkdir(parents=True)
        path.write_bytes(new)
    elif way == "moved in":
        outside = tmp_path / "outside" / "b"
        outside.mkdir(parents=True)
        (outside / "new").write_bytes(new)
        outside.parent.rename(folder / "a")
    elif way == "overwritten":
        path = folder / "old"
        with open(path, "r+b") as file:
            file.write(new)
    else:
        path, new = folder / "renamed", old
        (folder / "old").rename(path)
    server.wait_until(lambda: is_sealed(path), f"sealed: {way}", 60)
    key = str(path.relative_to(folder))
    assert s3.etags_everywhere(s3.client(one.url), BUCKET, key) == {data.md5(new)}


@pytest.mark.parametrize("seal", ["off", "written"])
def test_what_was_there_is_not_read_uninvited(daemon, tree, folder, random, seal):
    """A file that arrives later is sealed first, or under `off` nothing is: the older one keeps its access time."""
    before = folder / "before"
    before.write_bytes(random.bytes(10_000))
    os.utime(before, ns=(10**18, before.stat().st_mtime_ns))  # relatime would move it
    trees.next_tick(before)
    time_of_change = before.stat().st_ctime_ns
    # What changed within the watcher's reach of its start is new to it.
    server.wait_until(lambda: time.time_ns() - time_of_change > 3 * 10**9, "the file is old")
    one = daemon(tree, "--seal", seal, *QUICK)
    after = copied(random.bytes(10_000), folder, "after")
    if seal == "written":
        ready(one)
        server.wait_until(lambda: is_sealed(after), "the new one is sealed", 60)
    else:
        assert "watcher" not in threads(one), "there is nothing that it would serve"
        client = s3.client(one.url)
        assert s3.etag(client, BUCKET, "after").endswith("-1")
        assert not is_sealed(after)
    assert not is_sealed(before)
    assert before.stat().st_atime_ns == 10**18, "nobody read it"


def threads(one):
    """The names of a daemon's threads."""
    return {(task / "comm").read_text().strip() for task in server.pathlib.Path(f"/proc/{one.pid}/task").iterdir()}


@pytest.mark.parametrize("watch", ["on", "off"])
def test_seal_all_seals_what_was_there_and_goes_on_after_a_restart(daemon, tree, folder, random, watch):
    bodies = {f"d{n % 7}/f{n}": random.bytes(2_000 + n) for n in range(60)}
    for key, body in bodies.items():
        (folder / key).parent.mkdir(exist_ok=True)
        (folder / key).write_bytes(body)
    one = daemon(tree, "--seal", "all", "--watch", watch, *QUICK)
    server.wait_until(lambda: any(is_sealed(folder / key) for key in bodies), "the first is sealed", 60)
    one.restart()
    server.wait_until(lambda: all(is_sealed(folder / key) for key in bodies), "all are sealed", 60)
    listed = s3.listed(s3.client(one.url), BUCKET)
    assert {key: entry["ETag"].strip('"') for key, entry in listed.items()} == {key: data.md5(body) for key, body in bodies.items()}


# The first moment belongs to the first answers.

def test_nothing_below_the_root_is_read_before_the_watcher_begins(daemon, tree, folder, random, tmp_path):
    (folder / "dir").mkdir()
    body, file = random.bytes(3_000), tmp_path / "strace"
    (folder / "dir" / "file").write_bytes(body)
    tools.need("strace")
    one = daemon(tree, "--watch-after", "3600s", *QUICK, wrapper=["strace", "-D", "-f", "-y", "-e", "trace=getdents64", "-o", str(file)])
    server.wait_until(lambda: "watcher" in threads(one), "the watcher waits")
    assert s3.body(s3.client(one.url), BUCKET, "dir/file") == body
    one.stop()
    server.wait_until(lambda: re.search(rf"^{one.pid} +[+]+ exited", file.read_text(), re.MULTILINE), "strace has written everything down")
    read = [event for event in trace.parse(file.read_text()) if event.name == "getdents64"]
    assert [event for event in read if f"<{tree}>" in event.words], "the root's own names, for its buckets"
    assert [event for event in read if f"<{tree}/" in event.words] == []


def test_what_changes_before_the_watcher_begins_is_heard_of_when_it_does(daemon, tree, folder, random):
    one = daemon(tree, "--watch-after", "2s", *QUICK)
    body = random.bytes(3_000)
    path = copied(body, folder, "early")
    assert "heard of at once" not in one.log.read_text(), "it has not begun"
    server.wait_until(lambda: is_sealed(path), "it is sealed", 60)
    assert s3.etags_everywhere(s3.client(one.url), BUCKET, "early") == {data.md5(body)}


# Where events are lost, or directories have no watch.

def is_stopped(pid):
    """Does every thread of a process stand still?"""
    threads = server.pathlib.Path(f"/proc/{pid}/task").iterdir()
    return all((thread / "stat").read_text().rsplit(")", 1)[1].split()[0] == "T" for thread in threads)


@contextlib.contextmanager
def unheard(one, folder):
    """What is done meanwhile the watcher never hears of: its queue is full."""
    most = int(server.pathlib.Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    os.kill(one.pid, signal.SIGSTOP)
    try:
        # A thread that runs takes the signal a moment later, and would read on until then.
        server.wait_until(lambda: is_stopped(one.pid), "all its threads stand still")
        with open(folder / "x", "wb", buffering=0) as x, open(folder / "y", "wb", buffering=0) as y:
            for _ in range(most // 2 + 10):  # two, in turn: the kernel merges what repeats
                x.write(b"x")
                y.write(b"y")
        yield
    finally:
        os.kill(one.pid, signal.SIGCONT)


def test_lost_events_are_made_up_for(daemon, tree, folder, random):
    one = daemon(tree, *QUICK, "--admin", "127.0.0.1:0")
    ready(one)
    lost = {f"lost-{n}": random.bytes(1_000) for n in range(30)}
    with unheard(one, folder):
        (folder / "late").mkdir()
        for name, body in lost.items():
            (folder / "late" / name).write_bytes(body)
    server.wait_until(lambda: all(is_sealed(folder / "late" / name) for name in lost), "all are sealed", 90)
    assert "more changed in the tree than could be followed" in one.log.read_text()
    assert admin.Metrics(one)("twintree_watch_overflows_total") >= 1
    client = s3.client(one.url)
    for name, body in lost.items():
        assert s3.etag(client, BUCKET, f"late/{name}") == data.md5(body)


def test_directories_beyond_the_limit_are_counted_in_the_log_and_looked_at_instead(daemon, tree, folder, random):
    """A namespace of its own lets the kernel refuse this daemon's watches, and nobody else's; where none can be had (in a
    chroot) the daemon is told to stop there."""
    for n in range(40):
        (folder / f"d{n:02}").mkdir()
    wrapper = ["unshare", "--user", "--map-root-user", "sh", "-c", 'echo 20 >/proc/sys/user/max_inotify_watches && exec "$@"', "sh"]
    if subprocess.run([*wrapper, "true"], stderr=subprocess.DEVNULL).returncode == 0:
        one = daemon(tree, "--watch-sweep", "500ms", *QUICK, wrapper=wrapper)
    else:
        one = daemon(tree, "--watch-sweep", "500ms", "--watch-most", "20", *QUICK)
    said = ready(one)
    counts = [int(number) for number in re.findall(r"\d+", said)][:2]
    assert 1 <= counts[0] <= 20 and sum(counts) == 41, said
    assert "fs.inotify.max_user_watches" in said
    bodies = {f"d{n:02}/f": random.bytes(500) for n in range(40)}
    for key, body in bodies.items():
        (folder / key).write_bytes(body)
    server.wait_until(lambda: all(is_sealed(folder / key) for key in bodies), "all are sealed", 90)


# A read is nobody's business.

def test_a_get_wakes_no_watcher(daemon, tree, folder, random):
    body = random.bytes(100_000)
    (folder / "f").write_bytes(body)
    one = daemon(tree)
    ready(one)
    masks = [int(mask, 16) for info in server.pathlib.Path(f"/proc/{one.pid}/fdinfo").iterdir()
             for mask in re.findall(r"^inotify .* mask:([0-9a-f]+)", info.read_text(), re.M)]
    assert len(masks) >= 2
    access, opened, closed = 0x1, 0x20, 0x10
    assert all(mask & (access | opened | closed) == 0 for mask in masks), [hex(mask) for mask in masks]


# The mount.

def shows(path):
    """What the mount says of a name by stat, read and listing, stat first; None where it is not there."""
    try:
        size = path.stat().st_size
        return path.read_bytes(), size, path.name in os.listdir(path.parent)
    except FileNotFoundError:
        return None


def size(path):
    """What stat(2) says, which may be what the kernel remembers: an open(2) would ask the daemon."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def change(disk, way, new):
    """A direct change; gives what each name must show then."""
    old = disk / "old"
    if way == "create":
        (disk / "new").write_bytes(new)
        return {"new": new}
    if way == "overwrite":
        old.write_bytes(new)
        return {"old": new}
    if way == "delete":
        old.unlink()
        return {"old": None}
    old.rename(disk / "new")
    return {"old": None, "new": b"as it was"}


# That a name is not there is not remembered by the kernel, so that a new one shows at once either way.
WAYS = [("on", "create"), ("on", "overwrite"), ("on", "delete"), ("on", "rename"), ("off", "overwrite"), ("off", "delete"), ("off", "rename")]


@pytest.mark.parametrize("watch, way", WAYS)
def test_direct_changes_show_in_the_mount_soon_and_without_the_watcher_when_its_ttl_is_over(tmp_path, random, watch, way):
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0:
        pytest.skip("needs /dev/fuse and root")
    new = random.bytes(5_000)
    with faces.Faces(tmp_path, *LONG, "--watch", watch, "--seal", "off") as both:
        disk, mount = both.on("disk", ""), both.on("mount", "")
        if watch == "on":
            ready(both.daemon)
        (disk / "old").write_bytes(b"as it was")
        server.wait_until(lambda: shows(mount / "old"), "the mount has it")
        before = {name: shows(mount / name) for name in ("old", "new")}  # fills the kernel's caches
        assert before == {"old": (b"as it was", 9, True), "new": None}
        wanted = change(disk, way, new)
        wanted = {name: body and (body, len(body), True) for name, body in wanted.items()}

        def is_right():
            return {name: shows(mount / name) for name in wanted} == wanted
        if watch == "on":
            server.wait_until(is_right, f"{way} shows in the mount")
        else:
            client = both.client
            for name, seen in wanted.items():
                assert (name in s3.listed(client, BUCKET)) == (seen is not None), "S3 is right at once"
            pause = threading.Event()
            for _ in range(20):  # a counter-proof has no event to wait for; an open(2) would ask the daemon
                assert os.stat(mount / "old").st_size == 9, "without the watcher only the TTL ends what the kernel remembers"
                pause.wait(0.05)


@pytest.mark.parametrize("way", ["overwrite", "delete", "rename"])
def test_what_lost_events_would_have_told_shows_in_the_mount(tmp_path, random, way):
    """All that is known then is that anything may have changed: also what the kernel remembers of single names and files."""
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0:
        pytest.skip("needs /dev/fuse and root")
    new = random.bytes(5_000)
    with faces.Faces(tmp_path, *LONG, "--seal", "off") as both:
        (both.on("disk", "") / "below").mkdir()
        disk, mount = both.on("disk", "below"), both.on("mount", "below")
        (disk / "old").write_bytes(b"as it was")
        (disk / "kept").write_bytes(b"before")
        ready(both.daemon)
        server.wait_until(lambda: shows(mount / "kept"), "the mount has it")
        (disk / "kept").write_bytes(b"kept")
        server.wait_until(lambda: size(mount / "kept") == 4, "what happens here is heard of")
        assert shows(mount / "old") == (b"as it was", 9, True) and shows(mount / "new") is None
        with open(mount / "kept", "rb"), unheard(both.daemon, both.on("disk", "")):
            wanted = change(disk, way, new)
        sizes = {name: body and len(body) for name, body in wanted.items()}
        server.wait_until(lambda: {name: size(mount / name) for name in wanted} == sizes, f"{way} shows in the mount")
        wanted = {name: body and (body, len(body), True) for name, body in wanted.items()}
        assert {name: shows(mount / name) for name in wanted} == wanted
        assert "more changed in the tree than could be followed" in both.daemon.words()
        assert shows(mount / "kept") == (b"kept", 4, True)


def test_the_mount_alone_hears_of_direct_changes_too(tmp_path, random):
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0:
        pytest.skip("needs /dev/fuse and root")
    root, point = tmp_path / "tree", tmp_path / "mount"
    (root / BUCKET).mkdir(parents=True)
    point.mkdir()
    (root / BUCKET / "old").write_bytes(b"as it was")
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([server.BINARY, "mount", str(root), str(point), *LONG], stdout=log, stderr=log)
    try:
        server.wait_until(lambda: "heard of at once" in (tmp_path / "log").read_text(), "it watches")
        assert shows(point / BUCKET / "old")[0] == b"as it was" and shows(point / BUCKET / "new") is None
        new = random.bytes(4_000)
        (root / BUCKET / "old").write_bytes(new)
        (root / BUCKET / "new").write_bytes(new)
        server.wait_until(lambda: [shows(point / BUCKET / name) for name in ("old", "new")] == [(new, 4_000, True)] * 2, "both show")
    finally:
        process.terminate()
        process.wait(20)
        faces.unmount(point)
