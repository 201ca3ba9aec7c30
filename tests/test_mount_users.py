"""The mount's surroundings and its users: disks that are full or read-only, an ordinary user in the mount, an ordinary user's own mount."""

import errno
import os
import pathlib
import stat

import pytest
from lib import faces, ordinary, s3, server, tree as trees
from lib.ordinary import USER, as_user

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="a mount of this suite needs root and /dev/fuse")

@pytest.fixture(params=["plain", "passthrough"])
def mode(request):
    """How files are read and written."""
    return request.param


@pytest.fixture
def open_path(tmp_path):
    """A folder that every user reaches."""
    return ordinary.within_reach(tmp_path)


# --- surroundings ---


def test_a_full_disk_is_said_as_it_is_and_the_mount_lives_on(tmp_path, mode, random):
    (tmp_path / "tree").mkdir()
    with trees.Mount(tmp_path / "tree", "tmpfs", 8), faces.Faces(tmp_path, "--mount-mode", mode) as both:
        path = both.on("mount", "large")
        with pytest.raises(OSError) as caught, open(path, "wb", buffering=0) as file:
            for _ in range(64):
                file.write(random.bytes(1 << 18))
        assert caught.value.errno == errno.ENOSPC
        os.unlink(path)
        both.on("mount", "small").write_bytes(b"again")
        assert s3.body(both.client, faces.BUCKET, "small") == b"again"


def test_nothing_is_written_where_nothing_may_be(tmp_path, mode, random):
    body = random.bytes(100)
    both = faces.Faces(tmp_path, "--mount-mode", mode, "--read-only")
    both.on("disk", "object").write_bytes(body)
    with both:
        path = both.on("mount", "object")
        assert path.read_bytes() == body == s3.body(both.client, faces.BUCKET, "object")
        for write in (lambda: path.write_bytes(b"1"), lambda: os.unlink(path), lambda: os.mkdir(path.parent / "new"),
                      lambda: os.truncate(path, 0), lambda: os.chmod(path, 0o600), lambda: os.utime(path),
                      lambda: os.rename(path, path.parent / "x"), lambda: os.link(path, path.parent / "x"),
                      lambda: os.setxattr(path, "user.x", b"1"), lambda: os.mkdir(both.mount / "bucket-new")):
            with pytest.raises(OSError) as caught:
                write()
            assert caught.value.errno == errno.EROFS
        assert path.read_bytes() == body and os.listdir(both.on("disk", "")) == ["object"]


def everything(both, names):
    """What mount and S3 show of a few names: the mount's two looks, and S3's."""
    return {name: (faces.seen_in_mount(both.on("mount", name), ("stat", "read", "list")), faces.seen_by_s3(both.client, name)[0])
            for name in names}


def test_a_read_only_mount_shows_what_direct_writers_do_and_leaves_no_trace(tmp_path, random):
    """The watcher is on, and the TTL so long that nothing else can have told the kernel."""
    both = faces.Faces(tmp_path, "--read-only", "--mount-ttl", "3600s")
    bodies = {name: random.bytes(100 + number) for number, name in enumerate(("kept", "replaced", "removed", "grown"))}
    for name, body in bodies.items():
        both.on("disk", name).write_bytes(body)
    with both:
        server.wait_until(lambda: "heard of at once in" in both.daemon.words(), "the watcher says what it watches")
        assert everything(both, bodies) == {name: ((len(body), body, True), (len(body), body, True)) for name, body in bodies.items()}
        (both.disk / "new").write_bytes(random.bytes(500))
        os.rename(both.disk / "new", both.on("disk", "replaced"))
        os.unlink(both.on("disk", "removed"))
        with open(both.on("disk", "grown"), "ab") as file:
            file.write(random.bytes(5000))
        both.on("disk", "folder").mkdir()
        both.on("disk", "folder/made").write_bytes(b"new")
        names = [*bodies, "folder/made"]
        there = {name: both.on("disk", name).read_bytes() if name != "removed" else None for name in names}
        expected = {name: ((body and len(body), body, body is not None),) * 2 for name, body in there.items()}
        server.wait_until(lambda: everything(both, names) == expected, "both show what is there")
        for name in names:
            with pytest.raises(OSError) as caught:
                both.on("mount", name).write_bytes(b"1")
            assert caught.value.errno == errno.EROFS
        before = trees.picture(both.disk, atime=False)
        s3.refused(403, "AccessDenied", both.client.put_object, Bucket=faces.BUCKET, Key="kept", Body=b"1")
    assert trees.picture(both.disk, atime=False) == before
    assert not any(".twintree" in path for path in before), "a read-only daemon made something"


# --- an ordinary user in the mount ---


@pytest.fixture
def shared(open_path, mode):
    """A mount for everybody, with a folder that is the ordinary user's."""
    with faces.Faces(open_path, "--mount-allow-other", "--mount-mode", mode) as both:
        both.on("mount", "his").mkdir()
        os.chown(both.on("mount", "his"), USER, USER)
        yield both


def test_what_a_user_makes_is_his_under_his_umask(shared):
    place = shared.on("mount", "his")
    as_user("""os.chdir(sys.argv[1])
os.umask(0o027)
os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o666))
os.mkdir("folder", 0o777)
os.mkfifo("fifo", 0o666)
os.symlink("file", "link")
open("folder/below", "w").write("his")
""", place)
    modes = {"file": 0o640, "folder": 0o750, "fifo": 0o640, "folder/below": 0o640, "link": None}
    for name, mode in modes.items():
        for face in ("mount", "disk"):
            found = os.lstat(shared.on(face, "his") / name)
            assert (found.st_uid, found.st_gid) == (USER, USER), (name, face)
            assert mode is None or stat.S_IMODE(found.st_mode) == mode, (name, face)
    assert s3.body(shared.client, faces.BUCKET, "his/folder/below") == b"his"


def test_nothing_is_made_as_root_for_a_user_whose_ids_cannot_be_taken(open_path, mode):
    """setfsuid(2) says of no failure: a daemon without CAP_SETUID would go on as root."""
    without = ["setpriv", "--bounding-set=-setuid,-setgid"]
    with faces.Faces(open_path, "--mount-allow-other", "--mount-mode", mode, wrapper=without) as both:
        (both.on("disk", "") / "open").mkdir()
        (both.on("disk", "") / "open").chmod(0o777)
        as_user("""os.chdir(sys.argv[1])
for make in (lambda: open("file", "w"), lambda: os.mkdir("folder"), lambda: os.mkfifo("fifo"), lambda: os.symlink("a", "link")):
    try:
        make()
    except OSError as error:
        assert error.errno == errno.EPERM, error
    else:
        raise SystemExit("it was made")
""", both.on("mount", "open"))
        assert os.listdir(both.on("disk", "open")) == []
        (both.on("mount", "open") / "by-root").write_bytes(b"1")


def test_a_user_is_refused_what_modes_refuse(shared):
    place = shared.on("mount", "")
    for name, mode in (("secret", 0o600), ("public", 0o644)):
        (place / name).write_bytes(b"of root")
        (place / name).chmod(mode)
    (place / "closed").mkdir(mode=0o700)
    assert as_user("""os.chdir(sys.argv[1])
def word(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "fine"
print(word(lambda: open("secret").read()), word(lambda: open("public").read()), word(lambda: open("public", "r+")),
      word(lambda: os.listdir("closed")), word(lambda: open("closed/x", "w")), word(lambda: open("new", "w")),
      word(lambda: os.unlink("public")), word(lambda: os.chmod("public", 0o666)), word(lambda: os.mkdir("../bucket-new")))
""", place) == "EACCES fine EACCES EACCES EACCES EACCES EACCES EPERM EACCES"


def test_a_mount_that_is_not_for_others_lets_nobody_else_in(open_path):
    with faces.Faces(open_path, "--mount-mode", "plain") as both:
        assert as_user("""try:
    os.listdir(sys.argv[1])
except OSError as error:
    print(errno.errorcode[error.errno])
""", both.mount) == "EACCES"


# --- an ordinary user's own mount ---


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_an_ordinary_user_mounts_through_fusermount3(tmp_path, random, end):
    with ordinary.Faces(tmp_path) as own:
        own.client.put_object(Bucket=faces.BUCKET, Key="object", Body=random.bytes(10_000))
        own.client.put_object(Bucket=faces.BUCKET, Key="a//b", Body=b"in the annex")
        assert own.said(r"reading_and_writing=\W*(\w+)") == "plain"
        with pytest.raises(PermissionError):
            os.listdir(own.mount)  # not even root may look
        assert as_user("""os.chdir(sys.argv[1])
assert len(open("object", "rb").read()) == 10_000
os.makedirs("folder/below")
open("folder/below/file", "w").write("his")
os.rename("folder/below/file", "file")
assert open(".annex/a=d/%=d/b=f").read() == "in the annex"
print(sorted(os.listdir(".")), os.stat("file").st_uid)
""", own.on("mount", "")) == f"['.annex', 'file', 'folder', 'object'] {USER}"
        assert s3.body(own.client, faces.BUCKET, "file") == b"his"
        if end == "kill":
            own.daemon.kill()
            own.daemon.start()
            assert as_user('print(open(sys.argv[1]).read())', own.on("mount", "file")) == "his"


def test_an_ordinary_user_without_fusermount3_is_told_what_to_install(tmp_path):
    own = ordinary.Faces(tmp_path, environment={"FUSERMOUNT_PATH": "/nonexistent/fusermount3"})
    with ordinary.device(), pytest.raises(AssertionError, match="(?s)ended with 69 .*apt-get install fuse3"):
        own.daemon.start()
    assert not faces.is_mounted(own.mount)


def test_a_walk_by_an_ordinary_users_mount_leaves_descriptors_for_s3_and_hides_no_name(tmp_path, random):
    """Without file handles each file that the kernel knows has a descriptor: where those run out it is said, and S3 goes on."""
    both = ordinary.Faces(tmp_path, wrapper=["prlimit", "--nofile=400:400"])
    names = [f"{number:04}" for number in range(2000)]
    for name in names:
        both.on("disk", name).touch()
    with both:
        said = as_user("""held, said = [], set()
try:
    print(len(os.listdir(sys.argv[1])))
except OSError as error:
    print(errno.errorcode[error.errno])
for number in range(2000):
    try:
        os.stat(f"{sys.argv[1]}/{number:04}")
    except OSError as error:
        said.add(errno.errorcode[error.errno])
print(*said)
""", both.on("mount", "")).split()
        assert said in (["2000", "EMFILE"], ["EMFILE", "EMFILE"])
        body = random.bytes(300_000)
        for name in ("new", "newer"):
            both.client.put_object(Bucket=faces.BUCKET, Key=name, Body=body)
            assert s3.body(both.client, faces.BUCKET, name) == body
        assert sorted(s3.listed(both.client, faces.BUCKET)) == sorted([*names, "new", "newer"])
        assert "no descriptors left" in both.daemon.words()
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("2")
        assert as_user("print(len(open(sys.argv[1], 'rb').read()))", both.on("mount", "new")) == "300000"
