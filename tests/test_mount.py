"""The mount by itself: its names, its attributes, its users, and its life from start to end."""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import sys

import pytest
from lib import data, s3, server

BUCKET = "bucket-one"
OTHER = 4711
"""A user and group whom nobody else is."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse")


def mounted(path):
    """Whether a FUSE mount, alive or dead, stands here."""
    with open("/proc/self/mounts") as table:
        return any(line.split()[1] == str(path) and line.split()[2].startswith("fuse") for line in table)


class Mounted:
    """A daemon whose buckets are mounted; `mount` and `disk` are the two paths of the one tree."""

    def __init__(self, folder, *flags, environment=None):
        self.folder, self.disk, self.mount = folder, folder / "tree", folder / "mount"
        for path in (folder, self.disk, self.mount, self.disk / BUCKET):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        self.daemon = server.Daemon(self.disk, folder / "daemon", "--mount", self.mount, *flags, environment=environment)

    def start(self):
        self.daemon.start()
        self.client = s3.client(self.daemon.url)
        return self

    def end(self):
        try:
            self.daemon.stop()
        finally:
            self.daemon.kill()
            while mounted(self.mount):
                subprocess.run(["umount", "-l", str(self.mount)], check=True)

    @property
    def inside(self):
        return self.mount / BUCKET

    @property
    def below(self):
        return self.disk / BUCKET


@pytest.fixture(params=["passthrough", "plain"])
def both(request, tmp_path):
    """One daemon a test, so that what one leaves cannot help the next."""
    for above in [tmp_path, *tmp_path.parents[:3]]:
        above.chmod(above.stat().st_mode | 0o011)
    one = Mounted(tmp_path / "both", "--mount-mode", request.param, "--mount-allow-other").start()
    yield one
    one.end()


def refused(code, call, *words, **named):
    """`call` fails with this errno and no other."""
    with pytest.raises(OSError) as error:
        call(*words, **named)
    assert error.value.errno == code, f"{errno.errorcode[error.value.errno]}, not {errno.errorcode[code]}"


def as_other(act, umask=0o022):
    """Does something as the other user, in a process of his; the name of what it raised, or nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(OTHER)
            os.setuid(OTHER)
            os.umask(umask)
            act()
        except BaseException as error:  # a child of fork() must never go on into pytest
            os.write(writing, repr(error).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as said:
        words = said.read().decode()
    os.waitpid(child, 0)
    return words


def etag(both, key):
    return both.client.head_object(Bucket=BUCKET, Key=key)["ETag"].strip('"')


def xattr_set(path, name, value):
    os.setxattr(path, name, value, follow_symlinks=False)


# One tree.

def test_what_one_face_writes_the_other_reads(both, random):
    mine, theirs = random.bytes(70_000), random.bytes(130_000)
    (both.inside / "dir").mkdir()
    (both.inside / "dir" / "mine").write_bytes(mine)
    both.client.put_object(Bucket=BUCKET, Key="dir/theirs", Body=theirs, Metadata={"colour": "green"})
    assert both.client.get_object(Bucket=BUCKET, Key="dir/mine")["Body"].read() == mine
    assert (both.inside / "dir" / "theirs").read_bytes() == theirs
    assert sorted(os.listdir(both.inside / "dir")) == ["mine", "theirs"]
    os.rename(both.inside / "dir" / "theirs", both.inside / "moved")
    head = both.client.head_object(Bucket=BUCKET, Key="moved")
    assert (head["ETag"].strip('"'), head["Metadata"]) == (data.md5(theirs), {"colour": "green"})
    os.unlink(both.inside / "moved")
    assert s3.listed(both.client, BUCKET).keys() == {"dir/mine"}


@pytest.mark.parametrize("how", ["chmod", "chown", "utime", "xattr", "link", "unlink of another name", "rename", "exchange", "replace"])
def test_what_leaves_the_content_leaves_the_etag(both, random, how):
    body, other = random.bytes(5000), random.bytes(5000)
    for key, bytes_ in (("a", body), ("b", other)):
        both.client.put_object(Bucket=BUCKET, Key=key, Body=bytes_)
    a, b, c = (both.inside / name for name in "abc")
    if how == "unlink of another name":
        os.link(both.below / "a", both.below / "c")
        server.wait_until(lambda: etag(both, "a") == data.md5(body), "the sealer verified what a direct link moved", 60)
    {
        "chmod": lambda: a.chmod(0o600),
        "chown": lambda: os.chown(a, OTHER, OTHER),
        "utime": lambda: os.utime(a, ns=(1, 1_000_000_007)),
        "xattr": lambda: xattr_set(a, "user.other", b"x"),
        "link": lambda: os.link(a, c),
        "unlink of another name": lambda: server.wait_until(lambda: c.exists(), "the mount shows the link") and os.unlink(c),
        "rename": lambda: os.rename(a, c) or os.rename(c, a),
        "exchange": lambda: exchange(a, b),
        "replace": lambda: os.rename(a, b) or os.rename(b, a),
    }[how]()
    assert etag(both, "a") == data.md5(other if how == "exchange" else body)
    if how == "exchange":
        assert etag(both, "b") == data.md5(body)


def exchange(one, other):
    """renameat2 with RENAME_EXCHANGE."""
    done = ctypes.CDLL(None, use_errno=True).renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2)
    if done:
        raise OSError(ctypes.get_errno(), "renameat2")


def test_thousands_of_files_replaced_at_once_wait_for_nobody(both, random):
    code = ("import os, sys\nfor n in range(300):\n"
            "  for name in ('x', 'y', 'z'):\n"
            "    open(f'{sys.argv[1]}/{sys.argv[2]}-{name}', 'w').write(str(n))\n"
            "    os.rename(f'{sys.argv[1]}/{sys.argv[2]}-{name}', f'{sys.argv[1]}/{name}')\n")
    crowd = [subprocess.Popen([sys.executable, "-c", code, both.inside, str(n)]) for n in range(4)]
    assert [one.wait(120) for one in crowd] == [0] * 4
    assert sorted(os.listdir(both.inside)) == ["x", "y", "z"]
    assert {key: both.client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in "xyz"} == dict.fromkeys("xyz", b"299")


# Names.

def test_buckets_are_made_and_removed_at_the_top(both):
    os.mkdir(both.mount / "made-here", 0o750)
    assert "made-here" in {bucket["Name"] for bucket in both.client.list_buckets()["Buckets"]}
    assert stat.S_IMODE(os.stat(both.mount / "made-here").st_mode) == 0o750 & ~0o022
    both.client.put_object(Bucket="made-here", Key="key", Body=b"x")
    refused(errno.ENOTEMPTY, os.rmdir, both.mount / "made-here")
    os.unlink(both.mount / "made-here" / "key")
    os.mkdir(both.mount / "made-here" / "empty")
    refused(errno.ENOTEMPTY, os.rmdir, both.mount / "made-here")
    os.rmdir(both.mount / "made-here" / "empty")
    os.rmdir(both.mount / "made-here")
    assert {bucket["Name"] for bucket in both.client.list_buckets()["Buckets"]} == {BUCKET}
    assert os.listdir(both.disk) == [BUCKET]


def test_nothing_but_buckets_is_seen_or_made_at_the_top(both):
    (both.disk / "a file").write_bytes(b"x")
    (both.disk / ".hidden").mkdir()
    assert os.listdir(both.mount) == [BUCKET]
    for name in ("a file", ".hidden", ".twintree"):
        refused(errno.ENOENT, os.stat, both.mount / name)
    for name in ("Upper", "ab", "under_score", "1.2.3.4", ".dot", "x" * 64):
        with pytest.raises(OSError):
            os.mkdir(both.mount / name)
        assert not (both.disk / name).is_dir() or name == ".hidden"
    for make in (lambda: open(both.mount / "file", "w"), lambda: os.symlink("x", both.mount / "link"), lambda: os.mkfifo(both.mount / "fifo")):
        with pytest.raises(OSError):
            make()
    assert sorted(os.listdir(both.disk)) == sorted([BUCKET, "a file", ".hidden"])


def test_the_reserved_directory_is_nowhere_and_cannot_be_made(both):
    both.client.put_object(Bucket=BUCKET, Key="a//b", Body=b"in the annex")
    assert (both.below / ".twintree").is_dir()
    (both.below / "deep").mkdir()
    shutil.copytree(both.below / ".twintree", both.below / "deep" / ".twintree")
    for folder in (both.inside, both.inside / "deep"):
        assert ".twintree" not in os.listdir(folder)
        for name in (".twintree", ".TwinTree", "lost+found"):
            refused(errno.ENOENT, os.stat, folder / name)
            refused(errno.EPERM, os.mkdir, folder / name)
            refused(errno.EPERM, os.open, folder / name, os.O_CREAT | os.O_WRONLY)
            refused(errno.EPERM, os.symlink, "x", folder / name)
    (both.inside / "file").write_bytes(b"x")
    refused(errno.EPERM, os.rename, both.inside / "file", both.inside / ".twintree")
    refused(errno.EPERM, os.link, both.inside / "file", both.inside / ".twintree")


def test_names_that_are_no_text_work_and_s3_escapes_them(both):
    for name in (b"latin-\xe9", b"new\nline", b"tab\t", b"a b"):
        path = os.fsencode(both.inside) + b"/" + name
        with open(path, "wb") as file:
            file.write(name)
        assert name in os.listdir(os.fsencode(both.inside))
    assert both.client.get_object(Bucket=BUCKET, Key="latin-\U0010fee9")["Body"].read() == b"latin-\xe9"


def test_the_kernels_own_errors_come_through(both):
    refused(errno.ENAMETOOLONG, os.mkdir, both.inside / ("x" * 256))
    refused(errno.ENAMETOOLONG, os.stat, both.inside / ("x" * 256))
    os.symlink("loop", both.inside / "loop")
    refused(errno.ELOOP, open, both.inside / "loop")
    (both.inside / "file").write_bytes(b"x")
    refused(errno.ENOTDIR, os.stat, both.inside / "file" / "below")
    refused(errno.EEXIST, os.mkdir, both.inside / "file")
    refused(errno.EXDEV, os.rename, both.inside / "file", both.folder / "elsewhere")
    refused(errno.ENODATA, os.getxattr, both.inside / "file", "user.none")


def test_links_are_links_and_lead_out(both):
    os.symlink("/etc/hostname", both.inside / "out")
    assert os.readlink(both.inside / "out") == "/etc/hostname" == os.readlink(both.below / "out")
    assert os.lstat(both.inside / "out").st_ino == os.lstat(both.below / "out").st_ino, "inodes keep their numbers"


def test_a_folder_that_changes_while_it_is_read_misses_nothing_and_doubles_nothing(both):
    names = {f"{n:04}" for n in range(3000)}
    for name in names:
        (both.below / name).touch()
    seen = []
    with os.scandir(both.inside) as entries:
        for n, entry in enumerate(entries):
            seen.append(entry.name)
            if n % 3 == 0:
                os.unlink(both.inside / entry.name)
    assert len(seen) == len(set(seen)) and set(seen) == names
    assert len(os.listdir(both.inside)) == 2000


# Extended attributes.

def test_only_the_object_half_of_a_record_is_shown(both, random):
    both.client.put_object(Bucket=BUCKET, Key="key", Body=random.bytes(100), Metadata={"colour": "green"}, Tagging="a=b")
    path = both.inside / "key"
    assert os.listxattr(path) == ["user.twintree.meta"]
    assert json.loads(os.getxattr(path, "user.twintree.meta"))["meta"] == {"colour": "green"}
    for name in ("user.twintree", "user.twintree.lock", "user.twintree.dir"):
        refused(errno.ENODATA, os.getxattr, path, name)
        refused(errno.EPERM, os.setxattr, path, name, b"x")
        refused(errno.EPERM, os.removexattr, path, name)
    xattr_set(path, "user.own", b"mine")
    assert sorted(os.listxattr(path)) == ["user.own", "user.twintree.meta"]


def test_the_object_half_is_set_and_removed_by_a_person(both, random):
    body = random.bytes(100)
    both.client.put_object(Bucket=BUCKET, Key="key", Body=body, Metadata={"colour": "green"})
    path = both.inside / "key"
    half = {"v": 1, "type": "text/odd", "headers": {"cache-control": "no-cache"}, "meta": {"colour": "red"}, "tags": {"a": "b"}}
    xattr_set(path, "user.twintree.meta", json.dumps(half).encode())
    head = both.client.head_object(Bucket=BUCKET, Key="key")
    assert (head["Metadata"], head["ContentType"], head["CacheControl"]) == ({"colour": "red"}, "text/odd", "no-cache")
    assert head["ETag"].strip('"') == data.md5(body)
    assert both.client.get_object_tagging(Bucket=BUCKET, Key="key")["TagSet"] == [{"Key": "a", "Value": "b"}]
    for wrong in (b"", b"[]", b"{", b"text", b'{"v":2}', b'{"tags":{"a":1}}', b'{"meta":[]}', b'{"type":7}'):
        refused(errno.EINVAL, os.setxattr, path, "user.twintree.meta", wrong)
    assert json.loads(os.getxattr(path, "user.twintree.meta")) == half, "what was refused changed nothing"
    os.removexattr(path, "user.twintree.meta")
    head = both.client.head_object(Bucket=BUCKET, Key="key")
    assert (head["Metadata"], head["ETag"].strip('"')) == ({}, data.md5(body))
    refused(errno.ENODATA, os.removexattr, path, "user.twintree.meta")


# Open files.

def test_an_unlinked_file_goes_on_until_it_is_closed(both, random):
    body = random.bytes(9000)
    with open(both.inside / "file", "w+b") as file:
        file.write(body)
        file.flush()
        os.unlink(both.inside / "file")
        file.seek(0)
        assert file.read() == body
        assert os.fstat(file.fileno()).st_nlink == 0
        os.fchmod(file.fileno(), 0o600)
        file.truncate(10)
        assert os.fstat(file.fileno()).st_size == 10
    assert os.listdir(both.inside) == []


def test_two_processes_append_without_losing_a_line(both):
    code = ("import os, sys\nfd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
            "for n in range(400): os.write(fd, f'{sys.argv[2]} {n:04}\\n'.encode())\n")
    writers = [subprocess.Popen([sys.executable, "-c", code, both.inside / "log", who]) for who in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    lines = (both.inside / "log").read_text().splitlines()
    for who in "ab":
        assert [line for line in lines if line[0] == who] == [f"{who} {n:04}" for n in range(400)]


def test_a_shared_mapping_is_the_file(both, random):
    old, new = random.bytes(8192), random.bytes(8192)
    (both.inside / "file").write_bytes(old)
    with open(both.inside / "file", "r+b") as file, mmap.mmap(file.fileno(), 8192) as mapped:
        assert mapped[:] == old
        mapped[:] = new
        mapped.flush()
        assert (both.below / "file").read_bytes() == new
        file.seek(0)
        assert file.read() == new


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_locks_hold_between_processes_in_the_mount(both, kind):
    path = both.inside / "lock"
    lock = "fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)" if kind == "flock" else "fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    code = f"import fcntl, sys\nf = open(sys.argv[1], 'r+')\ntry:\n  {lock}\nexcept BlockingIOError:\n  sys.exit(7)\n"
    with open(path, "w+") as file:
        (fcntl.flock if kind == "flock" else fcntl.lockf)(file, fcntl.LOCK_EX)
        assert subprocess.run([sys.executable, "-c", code, path]).returncode == 7
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == 0


def test_times_and_holes_are_exact(both, random):
    path = both.inside / "file"
    path.write_bytes(random.bytes(10))
    for at in (1_234_567_890_123_456_789, 1, -1, -1_500_000_000):
        os.utime(path, ns=(at, at))
        assert (os.stat(path).st_mtime_ns, os.stat(both.below / "file").st_mtime_ns) == (at, at)
    with open(both.inside / "sparse", "w+b") as file:
        file.truncate(4 << 20)
        file.seek(2 << 20)
        file.write(random.bytes(4096))
        file.flush()
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == os.lseek(os.open(both.below / "sparse", os.O_RDONLY), 0, os.SEEK_DATA)
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
    with open(both.inside / "copy", "w+b") as copy, open(both.inside / "sparse", "rb") as file:
        while os.copy_file_range(file.fileno(), copy.fileno(), 1 << 30):
            pass
    assert (both.below / "copy").read_bytes() == (both.below / "sparse").read_bytes()


def test_a_file_open_for_writing_is_in_flux_though_the_kernel_forgot_its_path(tmp_path, random):
    """Dropping the caches leaves the file below without a known path; it must be counted all the same."""
    both = Mounted(tmp_path / "both", "--mount-ttl", "3600s").start()
    try:
        both.client.put_object(Bucket=BUCKET, Key="dir/key", Body=random.bytes(5000))
        os.stat(both.inside / "dir" / "key")
        for _ in range(3):
            with open("/proc/sys/vm/drop_caches", "w") as drop:
                drop.write("3")
        with open(both.inside / "dir" / "key", "r+b") as file:
            assert etag(both, "dir/key").endswith("-1"), "no MD5 while somebody may write"
            file.write(random.bytes(5000))
        server.wait_until(lambda: not etag(both, "dir/key").endswith("-1"), "it was sealed", 60)
        assert etag(both, "dir/key") == data.md5((both.below / "dir/key").read_bytes())
    finally:
        both.end()


# Users.

def test_what_an_ordinary_user_makes_is_his(both):
    (both.inside / "open").mkdir()
    (both.inside / "open").chmod(0o777)
    place = both.inside / "open"

    def make():
        (place / "file").write_text("x")
        (place / "dir").mkdir()
        os.symlink("x", place / "link")
        os.mkfifo(place / "fifo")

    assert as_other(make, umask=0o027) == ""
    for name, mode in (("file", 0o640), ("dir", 0o750), ("link", 0o777), ("fifo", 0o640)):
        there = os.lstat(both.below / "open" / name)
        assert (there.st_uid, there.st_gid, stat.S_IMODE(there.st_mode)) == (OTHER, OTHER, mode), name
    closed = both.inside / "closed"
    closed.mkdir(0o700)
    for what in (lambda: open(both.inside / "new", "w"), lambda: (both.mount / "new-bucket").mkdir(), lambda: both.inside.chmod(0o777),
                 lambda: os.listdir(closed), lambda: os.unlink(both.inside / "open" / ".." / "closed")):
        assert as_other(what).startswith("PermissionError")


def test_a_default_acl_takes_the_place_of_the_umask(both):
    if not shutil.which("setfacl"):
        pytest.skip("needs setfacl")
    (both.inside / "shared").mkdir()
    if subprocess.run(["setfacl", "-m", "d:u::rwx,d:g::rwx,d:o::r-x", both.below / "shared"]).returncode:
        pytest.skip("the filesystem has no ACLs")
    before = os.umask(0o077)
    try:
        (both.inside / "shared" / "dir").mkdir()
        (both.inside / "plain").mkdir()
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(both.below / "shared" / "dir").st_mode) == 0o775
    assert stat.S_IMODE(os.stat(both.below / "plain").st_mode) == 0o700


def test_a_write_takes_set_user_id_away(both):
    path = both.inside / "tool"
    path.write_bytes(b"x")
    path.chmod(0o6755)
    assert stat.S_IMODE(os.stat(both.below / "tool").st_mode) == 0o6755
    with open(path, "ab") as file:
        file.write(b"y")
    assert stat.S_IMODE(os.stat(both.below / "tool").st_mode) & stat.S_ISUID == 0


# Its life.

def test_sigterm_unmounts_also_under_a_user(both):
    held = os.open(both.inside, os.O_RDONLY)
    try:
        both.daemon.stop()
        assert not mounted(both.mount)
        assert os.listdir(both.mount) == []
    finally:
        os.close(held)


def test_a_killed_daemons_mount_is_cleared_by_the_next(both, random):
    (both.inside / "file").write_bytes(random.bytes(10))
    both.daemon.kill()
    refused(errno.ENOTCONN, os.listdir, both.mount)
    both.start()
    assert os.listdir(both.inside) == ["file"]


def test_a_mount_that_somebody_took_away_leaves_s3_alone(both):
    subprocess.run(["umount", both.mount], check=True)
    assert both.client.list_buckets()["Buckets"]


@pytest.mark.parametrize("case", ["missing", "a file", "not empty", "inside the tree", "around the tree", "mounted already"])
def test_a_mount_point_that_will_not_do_is_refused_with_its_name(both, case, tmp_path):
    point = tmp_path / "point"
    if case == "a file":
        point.write_text("x")
    elif case == "not empty":
        (point / "x").mkdir(parents=True)
    point = {"inside the tree": both.disk / BUCKET / "inside", "around the tree": both.folder, "mounted already": both.mount}.get(case, point)
    if case == "inside the tree":
        point.mkdir()
    tree = tmp_path / "second" if case == "mounted already" else both.disk
    tree.mkdir(exist_ok=True)
    done = subprocess.run([server.BINARY, "mount", tree, point], capture_output=True, text=True, timeout=30)
    assert done.returncode != 0 and str(point) in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3 and os.listdir(both.mount) == [BUCKET]


def test_the_mount_alone_shows_and_takes_what_the_gateway_does(tmp_path, random):
    folder = tmp_path / "alone"
    tree, point = folder / "tree", folder / "mount"
    for path in (tree / BUCKET, point):
        path.mkdir(parents=True)
    alone = subprocess.Popen([server.BINARY, "mount", tree, point], stderr=subprocess.DEVNULL)
    try:
        server.wait_until(lambda: mounted(point), "it is mounted")
        (point / BUCKET / "file").write_bytes(b"x")
        with server.Daemon(tree, folder / "daemon") as gateway:
            client = s3.client(gateway.url)
            assert client.get_object(Bucket=BUCKET, Key="file")["Body"].read() == b"x"
            client.put_object(Bucket=BUCKET, Key="theirs", Body=b"y")
            server.wait_until(lambda: (point / BUCKET / "theirs").exists(), "within the TTL")
        alone.send_signal(signal.SIGTERM)
        assert alone.wait(20) == 0 and not mounted(point)
    finally:
        alone.kill()
        alone.wait()
        if mounted(point):
            subprocess.run(["umount", "-l", point], check=True)


def test_a_read_only_mount_takes_nothing(tmp_path):
    both = Mounted(tmp_path / "both", "--read-only")
    (both.below / "file").write_bytes(b"x")
    both.start()
    try:
        assert (both.inside / "file").read_bytes() == b"x"
        refused(errno.EROFS, open, both.inside / "new", "w")
        refused(errno.EROFS, os.mkdir, both.mount / "new-bucket")
        refused(errno.EROFS, os.chmod, both.inside / "file", 0o600)
    finally:
        both.end()


def test_files_that_were_walked_are_forgotten(tmp_path):
    """Few descriptors and a bounded memory, whatever number of files the kernel has seen."""
    many = int(os.environ.get("TWINTREE_MOUNT_FILES", "20000"))
    both = Mounted(tmp_path / "both")
    for n in range(many):
        folder = both.below / f"{n // 1000:03}"
        if n % 1000 == 0:
            folder.mkdir()
        (folder / f"{n:06}").touch()
    both.start()
    try:
        walked = sum(len(files) for _, _, files in os.walk(both.inside))
        assert walked == many
        for folder, _, files in os.walk(both.inside):
            for name in files:
                os.lstat(pathlib.Path(folder) / name)
        status = pathlib.Path(f"/proc/{both.daemon.pid}/status").read_text()
        resident = int(status.split("VmRSS:")[1].split()[0])
        assert resident < 60_000 + many * 2, f"{resident} KiB after {many} files"
        assert len(os.listdir(f"/proc/{both.daemon.pid}/fd")) < 200
        with open("/proc/sys/vm/drop_caches", "w") as drop:
            drop.write("2")
        both.daemon.stop()
        nodes = int(re.findall(r"nodes=(\d+)", both.daemon.log.read_text())[-1])
        assert nodes < 100, f"{nodes} nodes are left after the kernel forgot them"
    finally:
        both.end()


def test_a_name_that_no_longer_fitted_into_a_reply_is_forgotten(tmp_path):
    """Names come with a reference each (readdirplus). The last of each reply does not fit, comes again in the next, and is held once."""
    both = Mounted(tmp_path / "both")
    for n in range(40):
        (both.below / f"{n}").mkdir()
        for m in range(150):  # about 80 of these names fit into what readdir(3) asks for at once
            (both.below / f"{n}" / f"{m:03}-{'long' * 50}").touch()
    both.start()
    try:
        for n in range(40):
            assert len(os.listdir(both.inside / f"{n}")) == 150
        with open("/proc/sys/vm/drop_caches", "w") as drop:
            drop.write("2")
        both.daemon.stop()
        nodes = int(re.findall(r"nodes=(\d+)", both.daemon.log.read_text())[-1])
        assert nodes < 5, f"{nodes} nodes are left after the kernel forgot them"
    finally:
        both.end()


def test_a_daemon_with_few_descriptors_says_so_and_hides_no_name(tmp_path):
    both = Mounted(tmp_path / "both")
    for n in range(3000):
        (both.below / f"{n:04}").touch()
    both.daemon._wrapper = ["prlimit", "--nofile=400:400"]
    both.start()
    try:
        with os.scandir(both.inside) as entries:
            assert sum(entry.stat().st_size == 0 for entry in entries) == 3000
    finally:
        both.end()
