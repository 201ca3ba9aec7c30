"""Programs at work in the mount, as people run them: git, sqlite, rsync, tar, make; and random operations against the tree below.

As root, and as an ordinary user whose daemon mounts through fusermount3.
Their own checks say whether the files are whole (fsck, integrity_check, a second rsync that moves nothing); the
directory below is compared byte for byte, and S3 must see the same.
"""

import errno
import hashlib
import mmap
import multiprocessing
import multiprocessing.popen_fork  # else loaded at the first start, by a user who may not come to where Python lies
import os
import shutil
import sqlite3
import stat
import subprocess
import threading

import pytest
from lib import faces, ordinary, s3

COMMITS = int(os.environ.get("TWINTREE_MOUNT_COMMITS", "40"))
OPERATIONS = int(os.environ.get("TWINTREE_MOUNT_OPERATIONS", "2000"))
ROWS = 100
IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
            "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}


@pytest.fixture
def own(tmp_path, request):
    """A tree with both faces that is an ordinary user's, and so is the whole test."""
    request.node.obj = ordinary.in_his_name(request.node.obj)
    with ordinary.Faces(tmp_path) as own:
        yield own


@pytest.fixture(params=["plain", "passthrough", "an ordinary user's"])
def both(tmp_path, request):
    """A tree with both faces."""
    if request.param == "an ordinary user's":
        yield request.getfixturevalue("own")
    else:
        with faces.Faces(tmp_path, "--mount-mode", request.param) as both:
            yield both


@pytest.fixture
def inside(both):
    """A folder in the mount, of whose tree it is."""
    folder, whose = both.on("disk", "work"), both.disk.stat()
    folder.mkdir()
    os.chown(folder, whose.st_uid, whose.st_gid)
    return both.on("mount", "work")


def run(*words, cwd=None, **variables):
    """Runs a program to its end and gives what it said."""
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=os.environ | IDENTITY | variables, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def contents(folder):
    """Every file below a folder, by its path from there."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()}


def assert_same_everywhere(both, prefix="work/"):
    """The mount, the directory and S3 hold the same files; an ETag that looks like an MD5 is one."""
    disk = contents(both.on("disk", prefix.rstrip("/")))
    assert contents(both.on("mount", prefix.rstrip("/"))) == disk
    # S3 has links that stay in the bucket for what they lead to.
    seen = disk | {name: path.read_bytes() for name, path in links(both.on("disk", prefix.rstrip("/")))}
    entries = s3.listed(both.client, faces.BUCKET, Prefix=prefix)
    assert {key.removeprefix(prefix): entry["Size"] for key, entry in entries.items() if not key.endswith("/")} == \
        {name: len(body) for name, body in seen.items()}
    for key, entry in entries.items():
        if not key.endswith("/"):
            faces.assert_truthful(key, entry["ETag"].strip('"'), seen[key.removeprefix(prefix)])


def links(folder):
    """Every link to a file below a folder, by its path from there."""
    return [(str(path.relative_to(folder)), path) for path in folder.rglob("*") if path.is_symlink() and path.is_file()]


def a_project(folder, random, files=60):
    """Folders of files, a link, modes and times that are worth keeping."""
    for number in range(files):
        path = folder / f"part-{number % 7}" / f"file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.bytes(random.draw().choice((0, 1, 4096, 100_000))))
        path.chmod(random.draw().choice((0o600, 0o644, 0o755)))
        os.utime(path, ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321 + number))
    (folder / "link").symlink_to("part-0/file-0")
    os.link(folder / "part-1" / "file-1", folder / "another name")
    os.setxattr(folder / "part-2" / "file-2", "user.colour", b"red")


def test_git_keeps_its_history(both, inside, random):
    git = inside / "repository"
    run("git", "init", "-q", git)
    for number in range(COMMITS):
        (git / f"file-{number % 9}").write_bytes(random.bytes(3000))
        run("git", "add", "-A", cwd=git)
        run("git", "commit", "-q", "-m", f"change {number}", cwd=git)
    run("git", "gc", "-q", cwd=git)
    run("git", "fsck", "--full", "--strict", cwd=git)
    run("git", "clone", "-q", git, inside / "clone")
    assert run("git", "rev-list", "--count", "HEAD", cwd=inside / "clone").strip() == str(COMMITS)
    assert run("git", "status", "--porcelain", cwd=git) == ""
    assert_same_everywhere(both)


def insert(path, number):
    """One writer's rows, each a transaction."""
    connection = sqlite3.connect(path, timeout=120)
    for row in range(ROWS):
        with connection:
            connection.execute("insert into t (writer, row) values (?, ?)", (number, row))


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_serves_four_processes(both, inside, journal):
    path = inside / "database"
    with sqlite3.connect(path) as connection:
        assert connection.execute(f"pragma journal_mode={journal}").fetchone()[0] == journal
        connection.execute("create table t (writer integer, row integer)")
    connection.close()
    processes = multiprocessing.get_context("fork")
    writers = [processes.Process(target=insert, args=(path, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(300)
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]
    with sqlite3.connect(path) as connection:
        assert connection.execute("pragma integrity_check").fetchone()[0] == "ok"
        assert connection.execute("select count(*), count(distinct writer) from t").fetchone() == (4 * ROWS, 4)
    connection.close()
    assert_same_everywhere(both)


def test_rsync_moves_nothing_the_second_time(both, inside, tmp_path, random):
    source = tmp_path / "source"
    a_project(source, random)
    run("rsync", "-aHAX", f"{source}/", f"{inside}/copy/")
    assert run("rsync", "-aHAX", "--itemize-changes", f"{source}/", f"{inside}/copy/") == ""
    assert run("rsync", "-aHAXc", "--itemize-changes", f"{inside}/copy/", f"{source}/") == "", "a copy back changes nothing"
    assert_same_everywhere(both)


def test_tar_goes_there_and_back(both, inside, tmp_path, random):
    source, back = tmp_path / "source", tmp_path / "back"
    a_project(source, random)
    back.mkdir()
    run("tar", "--xattrs", "-cf", inside / "all.tar", "-C", source, ".")
    (inside / "unpacked").mkdir()
    run("tar", "--xattrs", "-xf", inside / "all.tar", "-C", inside / "unpacked")
    run("tar", "--xattrs", "-cf", tmp_path / "again.tar", "-C", inside / "unpacked", ".")
    run("tar", "--xattrs", "-xf", tmp_path / "again.tar", "-C", back)
    assert run("rsync", "-aHXnc", "--itemize-changes", f"{source}/", f"{back}/") == ""
    assert_same_everywhere(both)


def test_make_builds_and_then_has_nothing_to_do(both, inside):
    for number in range(12):
        (inside / f"part{number}.c").write_text(f"int part{number}(void) {{ return {number}; }}\n")
    declared = "".join(f"int part{n}(void);" for n in range(12))
    called = "+".join(f"part{n}()" for n in range(12))
    (inside / "main.c").write_text(f"{declared} int main(void) {{ return {called}; }}\n")
    (inside / "Makefile").write_text("all: program\nprogram: $(patsubst %.c,%.o,$(wildcard *.c))\n\tcc -o $@ $^\n")
    run("make", "-j2", cwd=inside)
    assert subprocess.run([inside / "program"], check=False).returncode == sum(range(12))
    assert "Nothing to be done" in run("make", cwd=inside)
    assert_same_everywhere(both)


def test_cp_keeps_metadata_and_not_the_etag_of_other_bytes(both, random):
    body = random.bytes(5000)
    both.client.put_object(Bucket=faces.BUCKET, Key="work/one", Body=body, Metadata={"colour": "red"})
    both.client.put_object_tagging(Bucket=faces.BUCKET, Key="work/one", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    run("cp", "-a", both.on("mount", "work/one"), both.on("mount", "work/two"))
    with open(both.on("mount", "work/two"), "r+b") as file:
        file.write(b"other bytes")
    assert both.client.head_object(Bucket=faces.BUCKET, Key="work/two")["Metadata"] == {"colour": "red"}
    tags = both.client.get_object_tagging(Bucket=faces.BUCKET, Key="work/two")["TagSet"]
    assert tags == [{"Key": "a", "Value": "b"}]
    assert_same_everywhere(both)


# --- what takes root ---


@pytest.fixture
def of_root(tmp_path):
    """A folder of root's that everybody may read."""
    folder = tmp_path / "of-root"
    folder.mkdir()
    (folder / "file").write_bytes(b"of root")
    os.utime(folder / "file", ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    for name in ("user.colour", "trusted.colour"):
        os.setxattr(folder / "file", name, b"red")
    return folder


TAKES_ROOT = {
    "chown": lambda path: os.chown(path, 0, -1),
    "chgrp": lambda path: os.chown(path, -1, 0),
    "mknod": lambda path: os.mknod(f"{path}-device", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "a trusted attribute": lambda path: os.setxattr(path, "trusted.colour", b"red"),
    "a capability": lambda path: os.setxattr(path, "security.capability", bytes.fromhex("0000000200040000" + 12 * "00")),
}


def test_what_takes_root_is_refused_to_an_ordinary_user_as_in_the_directory(own):
    for face in ("mount", "disk"):
        path = own.on(face, face)
        path.write_bytes(b"his")
        for name, attempt in TAKES_ROOT.items():
            with pytest.raises(OSError) as caught:
                attempt(path)
            assert caught.value.errno == errno.EPERM, (face, name, caught.value)
        assert (path.stat().st_uid, os.listxattr(path)) == (ordinary.USER, []), face
    assert sorted(os.listdir(own.on("disk", ""))) == ["disk", "mount"]


def test_copies_of_roots_files_are_an_ordinary_users_and_whole(own, of_root):
    """rsync and cp ask for no owner where they may not set one; tar says so when it is told to."""
    work = own.on("mount", "work")
    work.mkdir()
    run("tar", "-cf", work / "all.tar", "-C", of_root, ".")
    (work / "by-tar").mkdir()
    done = subprocess.run(["tar", "--same-owner", "-xf", work / "all.tar", "-C", work / "by-tar"], capture_output=True, text=True)
    assert done.returncode == 2 and "Cannot change ownership" in done.stderr, done
    run("cp", "-a", of_root, work / "by-cp")
    run("rsync", "-aHAX", f"{of_root}/", f"{work}/by-rsync/")
    assert run("rsync", "-aHAX", "--itemize-changes", f"{of_root}/", f"{work}/by-rsync/") == ""
    for name in ("by-tar", "by-cp", "by-rsync"):
        path = work / name / "file"
        assert path.read_bytes() == b"of root" and path.stat().st_uid == ordinary.USER, name
        assert os.listxattr(path) == ([] if name == "by-tar" else ["user.colour"]), name
    assert_same_everywhere(own)


# --- against a model ---


class Model:
    """What a file must hold, beside the file: every operation is done to both."""

    def __init__(self, path):
        self.path, self.bytes = path, bytearray()
        self.file = open(path, "w+b", buffering=0)

    def write(self, at, body):
        assert os.pwrite(self.file.fileno(), body, at) == len(body)
        self.grow(at + len(body))
        self.bytes[at:at + len(body)] = body

    def store(self, at, body):
        """By a shared mapping: only below the end."""
        body = body[:max(0, len(self.bytes) - at)]
        if body:
            with mmap.mmap(self.file.fileno(), len(self.bytes)) as pages:
                pages[at:at + len(body)] = body
            self.bytes[at:at + len(body)] = body

    def truncate(self, size):
        os.ftruncate(self.file.fileno(), size)
        self.grow(size)
        del self.bytes[size:]

    def allocate(self, at, length):
        os.posix_fallocate(self.file.fileno(), at, length)
        self.grow(at + length)

    def copy(self, source, target, length):
        """copy_file_range within the file, without overlap."""
        length = min(length, max(0, len(self.bytes) - source), abs(target - source))
        if length:
            done = os.copy_file_range(self.file.fileno(), self.file.fileno(), length, source, target)
            self.grow(target + done)
            self.bytes[target:target + done] = self.bytes[source:source + done]

    def reopen(self, flags):
        self.file.close()
        self.file = os.fdopen(os.open(self.path, flags), "r+b", buffering=0)

    def grow(self, size):
        self.bytes.extend(bytes(max(0, size - len(self.bytes))))

    def check(self, at, length):
        assert os.fstat(self.file.fileno()).st_size == len(self.bytes)
        assert os.pread(self.file.fileno(), length, at) == bytes(self.bytes[at:at + length])


def test_random_operations_leave_what_the_model_says(both, inside, random):
    """In the manner of fsx: writes, stores, truncations, holes, copies, reads, in any order, on one file."""
    draw, model = random.draw(), Model(inside / "file")
    most = 256 * 1024
    for turn in range(OPERATIONS):
        at, length = draw.randrange(most), draw.randrange(1, 64 * 1024)
        kind = draw.choice(("write", "write", "store", "truncate", "allocate", "copy", "read", "read", "reopen", "sync"))
        if kind == "write":
            model.write(at, random.bytes(length))
        elif kind == "store":
            model.store(at, random.bytes(length))
        elif kind == "truncate":
            model.truncate(at)
        elif kind == "allocate":
            model.allocate(at, length)
        elif kind == "copy":
            model.copy(at, draw.randrange(most), length)
        elif kind == "reopen":
            model.reopen(draw.choice((os.O_RDWR, os.O_RDWR | os.O_SYNC)))
        elif kind == "sync":
            os.fsync(model.file.fileno())
        model.check(*((at, length) if kind == "read" else (0, 4096)))
        if turn % 100 == 0:
            assert both.on("disk", "work/file").read_bytes() == bytes(model.bytes), f"operation {turn}: {kind}"
    model.file.close()
    assert contents(inside) == {"file": bytes(model.bytes)}
    assert_same_everywhere(both)


def a_crowd_member(folder, draw, number, failures):
    """In the manner of fsstress: makes, moves, links and removes names that others do as well; any POSIX answer is right."""
    try:
        for turn in range(OPERATIONS // 10):
            one, two = (folder / draw.choice("abcd") / draw.choice("efgh") for _ in range(2))
            try:
                kind = draw.randrange(8)
                if kind == 0:
                    one.parent.mkdir(exist_ok=True)
                elif kind in (1, 2, 3):
                    one.write_bytes(hashlib.sha256(f"{number} {turn}".encode()).digest() * draw.randrange(1, 200))
                elif kind == 4:
                    one.rename(two)
                elif kind == 5:
                    os.link(one, two)
                elif kind == 6:
                    one.unlink()
                elif draw.randrange(4) == 0:
                    shutil.rmtree(one.parent)
            except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, OSError) as error:
                # ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY; and ESTALE, where a name was replaced twice while it was
                # looked for: the kernel looks it up once more by itself, not twice. rmtree has no number for a folder
                # that was replaced by another between its lstat and its open.
                replaced = error.errno is None and "Cannot call rmtree" in str(error)
                assert replaced or error.errno in (2, 17, 20, 21, 39, 116), error
    except BaseException as error:  # what a thread finds is told by the test
        failures.append(repr(error))


def test_a_crowd_in_one_folder_leaves_what_lies_below(both, inside, random):
    import random as generators

    failures = []
    crowd = [threading.Thread(target=a_crowd_member, args=(inside, generators.Random(f"{random.draw().random()}"), n, failures))
             for n in range(4)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join(300)
    assert failures == []
    assert_same_everywhere(both)
