"""The life of a mount: taken down by SIGTERM in every state, taken over after SIGKILL, refused where it would hide something, and beside another process."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading

import pytest
from lib import command, data, faces, s3, server

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="a mount of this suite needs root and /dev/fuse")

GONE = (errno.ENOTCONN, errno.ECONNABORTED)
WORKER = """import itertools, os, sys
folder, ready = sys.argv[1], False
for number in itertools.count():
    try:
        path = os.path.join(folder, f"{sys.argv[2]}-{number % 50}")
        with open(path, "wb") as file:
            file.write(os.urandom(5000))
        with open(path, "rb") as file:
            file.read()
        os.rename(path, path + ".new")
        os.listdir(folder)
    except OSError:
        sys.exit(0)
    if number == 20:
        print("at work", flush=True)
"""


@pytest.fixture
def both(tmp_path):
    """A tree with both faces, whose daemon the test ends itself."""
    both = faces.Faces(tmp_path)
    yield both.__enter__()
    both.daemon.kill()
    faces.unmount(both.mount)


def let_go(file):
    """Closes a file whose mount may be gone; then close(2) says so."""
    with contextlib.suppress(OSError):
        os.close(file)


def ends_well(both):
    """SIGTERM: ends with 0, and no mount is left."""
    both.daemon.stop()
    assert not faces.is_mounted(both.mount) and os.listdir(both.mount) == []


def test_sigterm_unmounts(both):
    both.on("mount", "file").write_bytes(b"1")
    ends_well(both)
    assert both.on("disk", "file").read_bytes() == b"1"


def test_sigterm_unmounts_under_load(both):
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, both.on("mount", ""), str(number)], stdout=subprocess.PIPE, text=True)
               for number in range(3)]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "at work\n"
        ends_well(both)
        for worker in workers:
            assert worker.wait(20) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            worker.stdout.close()


def test_sigterm_unmounts_lazily_what_somebody_holds_open(both):
    both.on("mount", "file").write_bytes(b"1")
    file = os.open(both.on("mount", "file"), os.O_RDWR)
    try:
        ends_well(both)
        assert "lazily" in both.daemon.words()
        with pytest.raises(OSError) as caught:
            os.ftruncate(file, 3)
        assert caught.value.errno in GONE
    finally:
        let_go(file)
    assert both.on("disk", "file").read_bytes() == b"1"


def test_sigkill_leaves_a_mount_that_the_next_start_takes_over(both):
    path = both.on("mount", "file")
    path.write_bytes(b"before")
    for _ in range(3):
        file = os.open(path, os.O_RDONLY)  # somebody is in it all the while
        both.daemon.kill()
        with pytest.raises(OSError) as caught:
            os.listdir(both.mount)
        assert caught.value.errno in GONE
        both.daemon.start()
        server.wait_until(path.exists, "the mount stands again")
        let_go(file)
        assert path.read_bytes() == b"before"
        assert both.on("disk", "file").read_bytes() == b"before"
    assert "removing the mount that an earlier daemon left" in both.daemon.words()
    ends_well(both)


def test_what_fsync_promised_survives_sigkill(both, random):
    body = random.bytes(1 << 20)
    file = os.open(both.on("mount", "file"), os.O_CREAT | os.O_WRONLY)
    assert os.write(file, body) == len(body)
    os.fsync(file)
    both.daemon.kill()
    let_go(file)
    assert both.on("disk", "file").read_bytes() == body


def test_s3_goes_on_when_somebody_unmounts(both):
    both.on("mount", "file").write_bytes(b"1")
    subprocess.run(["umount", str(both.mount)], check=True)
    server.wait_until(lambda: "S3 goes on" in both.daemon.words(), "the log says so")
    assert s3.body(both.client, faces.BUCKET, "file") == b"1"
    both.client.put_object(Bucket=faces.BUCKET, Key="other", Body=b"2")
    both.client.delete_object(Bucket=faces.BUCKET, Key="file")
    assert list(s3.listed(both.client, faces.BUCKET)) == ["other"]
    ends_well(both)


def test_a_signal_that_comes_while_it_starts_leaves_no_mount(tmp_path):
    both = faces.Faces(tmp_path)
    for _ in range(5):
        both.daemon.start()
        both.daemon.stop()
        assert not faces.is_mounted(both.mount)


# --- refused mount points ---


def refusal(place, name):
    """(ROOT, DIR) of a mount that must not be, and a word of the sentence that says so."""
    root, point = place / "tree", place / "point"
    (root / "bucket-one").mkdir(parents=True)
    if name == "missing":
        return root, point, "does not exist: mkdir -p it first"
    if name == "a file":
        point.write_bytes(b"x")
        return root, point, "is not a directory"
    point.mkdir()
    if name == "not empty":
        (point / "file").write_bytes(b"x")
        return root, point, "is not empty"
    if name == "inside":
        return root, root / "bucket-one", "inside the served directory"
    if name == "the root itself":
        return root, root, "inside the served directory"
    if name == "the root inside it":
        return root, place, "would hide it"
    if name == "through a link":
        (place / "link").symlink_to(root / "bucket-one")
        return root, place / "link", "inside the served directory"
    raise AssertionError(name)


@pytest.mark.parametrize("how", ["mount", "serve"])
@pytest.mark.parametrize("name", ["missing", "a file", "not empty", "inside", "the root itself", "the root inside it", "through a link"])
def test_a_mount_that_would_hide_something_is_refused_with_a_sentence(tmp_path, name, how):
    root, point, words = refusal(tmp_path, name)
    try:
        done = refused(root, point, how, tmp_path)
        assert words in done.stderr.decode() and str(point.resolve() if point.exists() else point) in done.stderr.decode(), done
        assert not faces.is_mounted(point)
    finally:
        faces.unmount(point)


def refused(root, point, how, folder):
    """Ends with 1 and one sentence, and soon."""
    words = ["mount", root, point] if how == "mount" else \
        ["serve", root, "--mount", point, "--listen", "127.0.0.1:0", "--state-dir", folder / "state"]
    (folder / "state").mkdir(exist_ok=True)
    done = command.run(*words, seconds=20)
    assert done.returncode == 1, done
    assert "panicked" not in done.stderr.decode()
    return done


@pytest.mark.parametrize("how", ["mount", "serve"])
def test_what_is_mounted_already_is_not_mounted_over(tmp_path, both, how):
    done = refused(both.disk, both.mount, how, tmp_path)
    assert "mounted" in done.stderr.decode()
    assert (both.mount / faces.BUCKET).is_dir()


# --- two processes on one tree ---


class Mounted:
    """`twintree mount` as a process of its own."""

    def __init__(self, root, point, log, *flags):
        self.point, self.log = point, log
        with open(log, "wb") as said:
            self.process = subprocess.Popen([server.BINARY, "mount", str(root), str(point), *flags], stdin=subprocess.DEVNULL,
                                            stdout=said, stderr=said, env=command.environment())

    def __enter__(self):
        server.wait_until(lambda: faces.is_mounted(self.point) or self.process.poll() is not None, "the mount stands")
        assert self.process.poll() is None, self.log.read_text()
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(20)
            assert code == 0 and not faces.is_mounted(self.point), self.log.read_text()
        finally:
            self.process.kill()
            self.process.wait()
            faces.unmount(self.point)


@pytest.fixture
def apart(tmp_path, served, tree, client):
    """S3 by one process and the mount by another."""
    client.create_bucket(Bucket=faces.BUCKET)
    (tmp_path / "mount").mkdir()
    with Mounted(tree, tmp_path / "mount", tmp_path / "said") as mounted:
        yield mounted.point / faces.BUCKET


def test_s3_sees_at_once_what_a_mount_of_another_process_did(apart, client, random):
    for number in range(100):
        body = random.bytes(1000 + number)
        client.put_object(Bucket=faces.BUCKET, Key="object", Body=random.bytes(500))
        (apart / "object").write_bytes(body)
        assert s3.body(client, faces.BUCKET, "object") == body
        assert s3.listed(client, faces.BUCKET)["object"]["Size"] == len(body)
        os.rename(apart / "object", apart / "other")
        s3.refused(404, "NoSuchKey", client.get_object, Bucket=faces.BUCKET, Key="object")
        os.unlink(apart / "other")
        assert s3.listed(client, faces.BUCKET) == {}


def test_a_mount_of_another_process_sees_within_the_ttl_what_s3_did(apart, client, random):
    def shows(path, body):
        try:
            return path.read_bytes() == body and os.stat(path).st_size == len(body) and path.name in os.listdir(path.parent)
        except OSError:
            return body is None

    names = [f"object-{number}" for number in range(50)]
    for body in (random.bytes(700), random.bytes(700), random.bytes(900), None):
        for name in names:
            shows(apart / name, b"")  # the kernel keeps what it saw
            if body is None:
                client.delete_object(Bucket=faces.BUCKET, Key=name)
            else:
                client.put_object(Bucket=faces.BUCKET, Key=name, Body=body)
        threading.Event().wait(1.1)  # the TTL is the claim here: what was kept for a second is over
        assert [name for name in names if not shows(apart / name, body)] == []


def test_what_a_mount_alone_wrote_is_sealed_by_who_seals(tmp_path, random):
    """It reads nothing by itself. What was recorded of a file that it wrote is gone at once, and `twintree seal` records anew."""
    root, point = tmp_path / "tree", tmp_path / "mount"
    (root / faces.BUCKET).mkdir(parents=True)
    point.mkdir()
    old, new, other = random.bytes(5000), random.bytes(5000), random.bytes(700)
    (root / faces.BUCKET / "old").write_bytes(old)

    def etags():
        return {row["key"]: row["etag"] for row in command.inventory(root, faces.BUCKET)}

    assert command.run("seal", root).returncode == 0
    assert etags() == {"old": data.md5(old)}
    with Mounted(root, point, tmp_path / "said"):
        with open(point / faces.BUCKET / "old", "r+b", buffering=0) as file:
            file.write(new)
        (point / faces.BUCKET / "other").write_bytes(other)
        assert all(tag.endswith("-1") for tag in etags().values()), etags()
    assert all(tag.endswith("-1") for tag in etags().values()), etags()
    assert command.run("seal", root).returncode == 0
    assert etags() == {"old": data.md5(new), "other": data.md5(other)}
