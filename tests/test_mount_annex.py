"""The annex in the mount: every key that no path can hold is a file in `.annex/`, as S3 left it, at once, and for reading only.

The kernel keeps what it knows for an hour here, and nothing waits between S3's answer and the look.
"""

import collections
import contextlib
import ctypes
import errno
import json
import mmap
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import threading

import pytest
from lib import annex, command, data, faces, s3, server, tree as trees

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="a mount of this suite needs root and /dev/fuse")

HOUR = ("--mount-ttl", "3600")
META, KEY = "user.twintree.meta", "user.twintree.key"
USER = 65534
LIBC = ctypes.CDLL(None, use_errno=True)
ROUNDS = int(os.environ.get("TWINTREE_COHERENCE_ROUNDS", "12"))

# A key of every kind, and what has to be there before, so that no path can hold it.
KINDS = {
    "a parent is a file": ("file/below", ["file"]),
    "far below a file": ("file/one/two/three", ["file"]),
    "the name is a folder": ("folder", ["folder/inner"]),
    "a body under a slash": ("folder/", ["folder/inner"]),
    "a body under a slash, and nothing else": ("fresh/", []),
    "an empty component": ("a//b", []),
    "empty components at both ends": ("/a/b//", []),
    "slashes alone": ("///", []),
    "a dot": ("a/./b", []),
    "dots alone": ("..", []),
    "a way out": ("../../../etc/passwd", []),
    "a name of 256 bytes": ("x" * 256, []),
    "a long name amid others": ("a/" + "y" * 700 + "/z", []),
    "a long name of wide characters": ("ü€" * 90 + "/" + "𝄞" * 70, []),
    "a long name of controls": ("\x01" * 300, []),
    "no ASCII": ("ünï//çödé €", []),
    "controls": ("tab\there//\x01\x7f\x80new\nline", []),
    "percent and equals": ("100%=d//50%25=f=c=%", []),
    "what looks encoded": ("a=d//%2E=f", []),
    "an escaped byte": ("latin-\U0010fee9//x", []),
    "what looks like ours": (".annex//annex=d/bucket.json", []),
    "as many components as a key has": ("/" * 1023 + "k", []),
}


@pytest.fixture(params=["plain", "passthrough"])
def mode(request):
    """How the mount reads."""
    return request.param


@contextlib.contextmanager
def for_an_hour(folder, mode):
    """A tree with both faces, whose kernel keeps what it knows for an hour; it may be too deep for pytest to take away."""
    both = faces.Faces(folder, "--mount-mode", mode, *HOUR)
    try:
        with both:
            yield both
    finally:
        trees.remove(both.disk)


@pytest.fixture
def both(tmp_path, mode):
    """One daemon a test, so that what one leaves cannot help the next."""
    with for_an_hour(tmp_path, mode) as both:
        yield both


@pytest.fixture
def plain(tmp_path):
    """The same, for what no mode changes."""
    with for_an_hour(tmp_path, "plain") as both:
        yield both


@pytest.fixture(scope="module", params=["plain", "passthrough"])
def standing(request, tmp_path_factory):
    """One for many tests, each of which leaves it as it found it."""
    with for_an_hour(tmp_path_factory.mktemp("standing"), request.param) as both:
        yield both


def put(both, key, body, **named):
    """PUT."""
    return both.client.put_object(Bucket=faces.BUCKET, Key=key, Body=body, **named)


def gone(both, key):
    """DELETE."""
    both.client.delete_object(Bucket=faces.BUCKET, Key=key)


def refused(code, call, *words, **named):
    """`call` fails with this errno and no other."""
    with pytest.raises(OSError) as error:
        call(*words, **named)
    assert error.value.errno == code, f"{errno.errorcode[error.value.errno]}, not {errno.errorcode[code]}"


class At:
    """A path of any depth: the kernel takes 4,096 bytes at once, and an annex may be deeper."""

    def __init__(self, top, below):
        self.names = below.split("/")
        self.folders = [os.open(top, os.O_RDONLY | os.O_DIRECTORY)]

    def __enter__(self):
        try:
            for name in self.names[:-1]:
                self.folders.append(os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.folders[-1]))
        except OSError:
            self.__exit__()
            raise
        return self.folders[-1], self.names[-1]

    def __exit__(self, *_):
        for folder in self.folders:
            os.close(folder)
        self.folders = []


def look(top, below, random):
    """What the mount shows of a name below `top`: (size, body, listed), asked in any order; None where it is not there."""
    found = {"size": None, "body": None, "listed": False}
    questions = random.draw().sample(sorted(found), 3)
    for question in questions:
        with faces.absent(), At(top, below) as (folder, name):
            if question == "size":
                found["size"] = os.stat(name, dir_fd=folder).st_size
            elif question == "listed":
                found["listed"] = name in os.listdir(folder)
            else:
                file = os.open(name, os.O_RDONLY, dir_fd=folder)
                try:
                    found["body"] = b"".join(iter(lambda: os.read(file, 1 << 17), b""))
                finally:
                    os.close(file)
    return found["size"], found["body"], found["listed"]


GONE = (None, None, False)


def whole(body):
    """What is to be seen of a body."""
    return len(body), body, True


def xattr(top, below, name):
    """An xattr of what lies below `top`."""
    with At(top, below) as (folder, last):
        file = os.open(last, os.O_RDONLY, dir_fd=folder)
        try:
            return os.getxattr(file, name)
        finally:
            os.close(file)


# --- what comes and goes ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_every_kind_comes_changes_and_goes(standing, random, kind):
    both, (key, before) = standing, KINDS[kind]
    for native in before:
        put(both, native, b"native")
    top, here = both.on("mount", ""), annex.place(key)
    natives = sorted(os.listdir(top))
    below = f"{annex.TOP}/{here}"
    for turn in range(2):
        assert look(top, below, random) == GONE and annex.TOP not in os.listdir(top)
        for size in (70_000, 70_000, 3, 120_001):
            body, state = random.bytes(size), f"{turn}-{size}"
            made = put(both, key, body, Metadata={"state": state})
            assert look(top, below, random) == whole(body)
            assert json.loads(xattr(top, below, META))["meta"] == {"state": state}
            with At(top, below) as (folder, name):
                seen = os.stat(name, dir_fd=folder)
                assert stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1
            assert made["ETag"].strip('"') == data.md5(body)
        assert xattr(top, below, KEY).decode() == key == annex.key_at(here)
        assert sorted(os.listdir(top)) == sorted([*natives, annex.TOP])
        both.client.put_object_tagging(Bucket=faces.BUCKET, Key=key, Tagging={"TagSet": [{"Key": "seen", "Value": "yes"}]})
        assert json.loads(xattr(top, below, META))["tags"] == {"seen": "yes"}
        gone(both, key)
        assert look(top, below, random) == GONE
        assert sorted(os.listdir(top)) == natives and not (top / annex.TOP).exists()
    for native in before:
        gone(both, native)
    assert os.listdir(top) == []


def test_one_key_comes_and_goes_beside_others(both, random):
    """A folder that goes on being there forgets the name, and tells its own times."""
    put(both, "x//stays", b"stays")
    folder = both.on("mount", annex.TOP) / "x=d" / "%=d"
    for turn in range(ROUNDS):
        body = random.bytes(random.draw().randrange(1, 100_000))
        assert look(folder, "k=f", random) == GONE and os.listdir(folder) == ["stays=f"]
        times = [os.stat(folder).st_mtime_ns]
        put(both, "x//k", body)
        times.append(os.stat(folder).st_mtime_ns)
        assert look(folder, "k=f", random) == whole(body) and sorted(os.listdir(folder)) == ["k=f", "stays=f"]
        put(both, f"x//new-{turn}/deeper", body)
        assert look(folder, f"new-{turn}=d/deeper=f", random) == whole(body)
        gone(both, f"x//new-{turn}/deeper")
        refused(errno.ENOENT, os.stat, folder / f"new-{turn}=d")
        gone(both, "x//k")
        times.append(os.stat(folder).st_mtime_ns)
        assert times == sorted(set(times)), f"round {turn}: the folder's time was kept"
    assert (folder / "stays=f").read_bytes() == b"stays"


def test_copies_and_uploads_and_many_deletions_show_at_once(both, random):
    body = random.bytes(5 << 20)
    put(both, "source", body[:1000], Metadata={"from": "source"})
    top = both.on("mount", "")
    copy, upload = (f"{annex.TOP}/{annex.place(key)}" for key in ("c//copy", "u//upload"))
    assert look(top, copy, random) == GONE == look(top, upload, random)
    both.client.copy_object(Bucket=faces.BUCKET, Key="c//copy", CopySource={"Bucket": faces.BUCKET, "Key": "source"})
    assert look(top, copy, random) == whole(body[:1000])
    named = {"Bucket": faces.BUCKET, "Key": "u//upload"}
    number = both.client.create_multipart_upload(**named)["UploadId"]
    parts = []
    for part, piece in enumerate((body, body[:77]), 1):
        made = both.client.upload_part(**named, UploadId=number, PartNumber=part, Body=piece)
        parts.append({"PartNumber": part, "ETag": made["ETag"]})
        assert look(top, upload, random) == GONE, "nobody sees an upload"
    both.client.complete_multipart_upload(**named, UploadId=number, MultipartUpload={"Parts": parts})
    assert look(top, upload, random) == whole(body + body[:77])
    listed = [{"Key": key} for key in ("c//copy", "u//upload")]
    both.client.delete_objects(Bucket=faces.BUCKET, Delete={"Objects": listed})
    assert look(top, copy, random) == GONE == look(top, upload, random)
    assert os.listdir(top) == ["source"]


@pytest.mark.parametrize("act", ["overwrite", "delete", "create"])
def test_nobody_tells_and_the_annex_is_stale(tmp_path, random, act):
    """The counter-proof: what the tests above find is the telling, not luck."""
    with faces.Faces(tmp_path, *HOUR, environment={"TWINTREE_MOUNT_NOTIFY": "off"}) as both:
        put(both, "x//other", b"so that the folder is known")
        folder = both.on("mount", annex.TOP) / "x=d" / "%=d"
        if act != "create":
            put(both, "x//k", b"the old one")
        before = look(folder, "k=f", random)[0]
        with faces.absent():
            os.stat(folder / "k=f")  # after the reading, which makes the kernel ask for its times
        time = os.stat(folder).st_mtime_ns
        gone(both, "x//k") if act == "delete" else put(both, "x//k", b"a new one, and longer")
        assert os.stat(folder).st_mtime_ns == time, "the folder's time was not kept"
        assert act == "create" or os.stat(folder / "k=f").st_size == before, "the name was not kept"


def test_an_open_file_and_a_folder_in_use_outlive_their_names(both, random):
    body = random.bytes(300_000)
    put(both, "x//k", body)
    place = both.on("mount", annex.TOP) / "x=d" / "%=d"
    here = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    with open(place / "k=f", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        put(both, "x//k", b"another")
        assert (place / "k=f").read_bytes() == b"another" and file.read() == body
        gone(both, "x//k")
        assert mapped[:] == body and os.pread(file.fileno(), 100, 1000) == body[1000:1100]
        assert os.fstat(file.fileno()).st_nlink == 0
    assert os.listdir(here) == []
    put(both, "x//k", b"once more")
    os.close(here)
    assert (place / "k=f").read_bytes() == b"once more"


# --- all of it ---


DEEP = KINDS["as many components as a key has"][0]
"""The one key whose path is longer than tools take in one word."""
ANNEXED = {key for key, _ in KINDS.values()} - {DEEP}


def fill(both, random):
    """An object of every kind but one, and some that paths hold; gives what S3 must have, by key."""
    bodies = {}
    for _, before in KINDS.values():
        for native in before:
            bodies[native] = random.bytes(77)
            put(both, native, bodies[native])
    for number in range(40):
        bodies[f"native/{number % 3}/{number}"] = random.bytes(number)
        put(both, f"native/{number % 3}/{number}", bodies[f"native/{number % 3}/{number}"])
    for key in ANNEXED:
        bodies[key] = random.bytes(random.draw().randrange(1, 5000))
        put(both, key, bodies[key], Metadata={"of": "annex"})
    return bodies


@pytest.fixture(scope="module", params=["plain", "passthrough"])
def filled(request, tmp_path_factory):
    """One with all of that, for who only looks."""
    with for_an_hour(tmp_path_factory.mktemp("filled"), request.param) as both:
        yield both, fill(both, data.Source(request.param))


def found_in(top):
    """All files of an annex by key, found with find(1), which goes to any depth."""
    done = subprocess.run(["find", ".", "-type", "f", "-printf", "%P\\0%s\\0"], cwd=top, capture_output=True, check=True)
    assert done.stderr == b""
    words = done.stdout.decode().split("\0")[:-1]
    return {annex.key_at(path): int(size) for path, size in zip(words[::2], words[1::2], strict=True)}


def test_the_annex_shows_what_a_listing_shows_and_no_path_holds(filled, random):
    both, bodies = filled[0], filled[1] | {DEEP: b"deep"}
    put(both, DEEP, b"deep")
    keys = ANNEXED | {DEEP}
    listed = s3.listed(both.client, faces.BUCKET)
    assert {key: entry["Size"] for key, entry in listed.items()} == {key: len(body) for key, body in bodies.items()}
    top = both.on("mount", annex.TOP)
    assert found_in(top) == {key: len(bodies[key]) for key in keys}
    for key in keys:
        assert look(top, annex.place(key), random) == whole(bodies[key])
        assert xattr(top, annex.place(key), KEY).decode() == key
    for folder in ("a=d", "a=d/%=d", "folder=d"):
        assert os.getxattr(top / folder, KEY).decode() == annex.key_at(folder)
    for name in os.listdir(top):
        with pytest.raises(OSError):
            os.getxattr(both.on("mount", "file"), KEY)
        assert KEY not in os.listxattr(top / name)
    gone(both, DEEP)
    assert found_in(top).keys() == ANNEXED


def copies(folder):
    """All files below a folder by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in pathlib.Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("tool", ["tar", "rsync", "cp", "du", "find"])
def test_tools_go_over_it_as_over_any_folder(filled, tmp_path, tool):
    both, bodies = filled
    top, out = both.on("mount", ""), tmp_path / "out"
    out.mkdir()
    expected = {f"{annex.TOP}/{annex.place(key)}" if key in ANNEXED else key: body for key, body in bodies.items()}

    def run(*words, cwd=top):
        done = subprocess.run(words, cwd=cwd, capture_output=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, b""), words
        return done.stdout

    if tool == "tar":
        run("tar", "--xattrs", "--acls", "-cf", tmp_path / "all.tar", ".")
        assert run("tar", "--compare", "-f", tmp_path / "all.tar") == b""
        run("tar", "--xattrs", "-xf", tmp_path / "all.tar", cwd=out)
    elif tool == "rsync":
        run("rsync", "-aHAX", f"{top}/", f"{out}/")
        assert run("rsync", "-aHAXi", f"{top}/", f"{out}/") == b"", "the second time it moves nothing"
    elif tool == "cp":
        run("cp", "-a", f"{top}/.", out)
        run("diff", "-r", top, out)
    elif tool == "du":
        sizes = sum(map(len, bodies.values()))
        assert int(run("du", "-s", "--apparent-size", "-B1", ".").split()[0]) >= sizes
        assert len(run("du", "-a", "-0", ".").split(b"\0")) - 1 == len(run("find", ".", "-print0").split(b"\0")) - 1
        return
    else:
        found = run("find", ".", "-type", "f", "-print0").decode().split("\0")[:-1]
        assert sorted(found) == sorted(f"./{path}" for path in expected)
        below = run("find", annex.TOP, "-depth", "-print0").decode().split("\0")
        assert below[-2] == annex.TOP and len(set(below)) == len(below)
        assert run("find", annex.TOP, "-xdev", "-not", "-type", "f", "-not", "-type", "d") == b""
        return
    assert copies(out) == expected


def test_what_is_copied_out_keeps_what_was_said_of_it_and_is_an_object(both, random):
    body = random.bytes(9000)
    put(both, "x//k", body, Metadata={"colour": "green"}, ContentType="text/odd")
    both.client.put_object_tagging(Bucket=faces.BUCKET, Key="x//k", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    subprocess.run(["cp", "-a", both.on("mount", annex.TOP) / annex.place("x//k"), both.on("mount", "out")], check=True)
    head = both.client.head_object(Bucket=faces.BUCKET, Key="out")
    assert (head["Metadata"], head["ContentType"]) == ({"colour": "green"}, "text/odd")
    assert both.client.get_object_tagging(Bucket=faces.BUCKET, Key="out")["TagSet"] == [{"Key": "a", "Value": "b"}]
    assert s3.body(both.client, faces.BUCKET, "out") == body
    with open(both.on("mount", "out"), "r+b") as target, open(both.on("mount", annex.TOP) / annex.place("x//k"), "rb") as source:
        assert os.copy_file_range(source.fileno(), target.fileno(), 4000, 1000, 0) > 0
    assert (both.on("mount", "out")).read_bytes()[:4000] == body[1000:5000]
    assert s3.etag(both.client, faces.BUCKET, "x//k") == data.md5(body)


def test_large_metadata_is_read_where_it_does_not_fit_the_file(both, random):
    """Also when the kernel has dropped the name on disk: a file that is opened by its handle then knows no path."""
    said = {f"key-{number}": "v" * 180 for number in range(9)}
    tags = "&".join(f"tag-{number}={'t' * 250}" for number in range(10))
    path = both.on("mount", annex.TOP) / annex.place("x//k")
    for key, path in (("native", both.on("mount", "native")), ("x//k", path)):
        put(both, key, b"x", Metadata=said, Tagging=tags)
        held = os.open(path, os.O_PATH)
        for asked in ("value", "names") * 2:
            if asked == "names":
                assert os.listxattr(path) == [META]
            else:
                assert json.loads(os.getxattr(path, META))["meta"] == said
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("2")
        os.close(held)
    shown = subprocess.run(["getfattr", "--absolute-names", "-d", path], capture_output=True, check=True).stdout
    assert b"user.twintree.meta=" in shown and b"user.twintree.key" not in shown
    shown = subprocess.run(["getfattr", "--absolute-names", "--only-values", "-n", KEY, path], capture_output=True, check=True).stdout
    assert shown == b"x//k"


# --- nothing is changed ---


def opened(flags):
    """Opens and closes."""
    return lambda path, _: os.close(os.open(path, flags))


def rename_with(flags):
    """renameat2(2) of a native file and a body of the annex."""
    def act(path, native):
        if LIBC.renameat2(-100, os.fsencode(native), -100, os.fsencode(path), flags):
            raise OSError(ctypes.get_errno(), "renameat2")
    return act


ATTEMPTS = {
    "open to write": opened(os.O_WRONLY),
    "open to read and write": opened(os.O_RDWR),
    "open to append": opened(os.O_WRONLY | os.O_APPEND),
    "open and truncate": opened(os.O_WRONLY | os.O_TRUNC),
    "open to read and truncate": opened(os.O_RDONLY | os.O_TRUNC),
    "create": lambda path, _: os.open(path.with_name("new=f"), os.O_CREAT | os.O_WRONLY),
    "create in the annex itself": lambda path, _: os.open(path.parents[2] / "new=f", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    "create what no key leads to": lambda path, _: os.open(path.with_name("new"), os.O_CREAT | os.O_WRONLY),
    "unnamed": lambda path, _: os.open(path.parent, os.O_TMPFILE | os.O_WRONLY),
    "truncate": lambda path, _: os.truncate(path, 0),
    "grow": lambda path, _: os.truncate(path, 1 << 20),
    "unlink": lambda path, _: os.unlink(path),
    "rmdir": lambda path, _: os.rmdir(path.parent),
    "rmdir of the annex": lambda path, _: os.rmdir(path.parents[2]),
    "mkdir": lambda path, _: os.mkdir(path.with_name("new=d")),
    "mkdir in the annex itself": lambda path, _: os.mkdir(path.parents[2] / "new=d"),
    "mknod": lambda path, _: os.mknod(path.with_name("new=f")),
    "mkfifo": lambda path, _: os.mkfifo(path.with_name("fifo")),
    "symlink": lambda path, _: os.symlink("x", path.with_name("link")),
    "link inside": lambda path, _: os.link(path, path.with_name("new=f")),
    "link out": lambda path, _: os.link(path, path.parents[3] / "out"),
    "link in": lambda path, native: os.link(native, path.with_name("new=f")),
    "rename inside": lambda path, _: os.rename(path, path.with_name("new=f")),
    "rename out": lambda path, _: os.rename(path, path.parents[3] / "out"),
    "rename in": lambda path, native: os.rename(native, path.with_name("new=f")),
    "rename over": lambda path, native: os.rename(native, path),
    "exchange": rename_with(2),
    "rename of a folder": lambda path, _: os.rename(path.parent, path.parents[1] / "new=d"),
    "rename of a folder out": lambda path, _: os.rename(path.parent, path.parents[3] / "out"),
    "rename of the annex": lambda path, _: os.rename(path.parents[2], path.parents[3] / "out"),
    "rename of the annex to another of its names": lambda path, _: os.rename(path.parents[2], path.parents[3] / ".annex~1"),
    "rename of a folder over the annex": lambda path, native: os.rename(native.with_name("folder"), path.parents[2]),
    "move of the annex to another bucket": lambda path, _: os.rename(path.parents[2], path.parents[4] / faces.SECOND / "out"),
    "chmod": lambda path, _: os.chmod(path, 0o777),
    "chmod of a folder": lambda path, _: os.chmod(path.parent, 0o777),
    "chmod of the annex": lambda path, _: os.chmod(path.parents[2], 0o777),
    "chown": lambda path, _: os.chown(path, USER, USER),
    "chown of the annex": lambda path, _: os.chown(path.parents[2], USER, USER),
    "utime": lambda path, _: os.utime(path, ns=(1, 1)),
    "utime of now": lambda path, _: os.utime(path),
    "setxattr": lambda path, _: os.setxattr(path, "user.other", b"1"),
    "setxattr of what is said of the object": lambda path, _: os.setxattr(path, META, b'{"v":1}'),
    "setxattr of a folder": lambda path, _: os.setxattr(path.parent, "user.other", b"1"),
    "removexattr": lambda path, _: os.removexattr(path, META),
    "an ACL": lambda path, _: os.setxattr(path, "system.posix_acl_access", bytes.fromhex("0200000001000600ffffffff04000400ffffffff20000400ffffffff")),
}
ERRORS = {
    # fuser 0.18 knows no unnamed files, and the kernel asks for none.
    "unnamed": errno.EOPNOTSUPP,
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_nothing_in_it_is_changed(standing, random, attempt):
    both, body = standing, random.bytes(5000)
    put(both, "x//k", body, Metadata={"colour": "green"})
    native = both.on("mount", "native")
    native.write_bytes(b"native")
    native.with_name("folder").mkdir()
    path = both.on("mount", annex.TOP) / annex.place("x//k")
    before = state(both)
    refused(ERRORS.get(attempt, errno.EROFS), ATTEMPTS[attempt], path, native)
    assert state(both) == before
    assert path.read_bytes() == body and s3.etag(both.client, faces.BUCKET, "x//k") == data.md5(body)
    assert native.read_bytes() == b"native"
    gone(both, "x//k")
    assert sorted(os.listdir(both.on("mount", ""))) == ["folder", "native"], "S3 alone changes it, and does"
    native.unlink()
    native.with_name("folder").rmdir()


def state(both):
    """All that lies in the bucket, with its attributes."""
    def told(path):
        seen = os.lstat(path)
        return seen.st_mode, seen.st_uid, seen.st_ino, seen.st_nlink, seen.st_mtime_ns, seen.st_ctime_ns, os.listxattr(path)

    below = both.on("disk", "") / ".twintree" / "annex"
    every = [*sorted(both.on("mount", "").rglob("*")), *sorted(below.rglob("*")), below]
    return {str(one): told(one) for one in every}


def test_programs_that_write_are_refused_as_on_a_read_only_disk(both, random):
    put(both, "x//k", b"text")
    path = both.on("mount", annex.TOP) / annex.place("x//k")
    for words in (["touch", path], ["touch", path.with_name("new")], ["rm", "-f", path], ["mv", path, both.on("mount", "out")],
                  ["rm", "-rf", both.on("mount", annex.TOP)], ["sh", "-c", f"echo more >> '{path}'"],
                  ["setfattr", "-n", "user.x", "-v", "1", path], ["chmod", "-R", "u+x", both.on("mount", annex.TOP)]):
        done = subprocess.run(words, capture_output=True, env={**os.environ, "LC_ALL": "C"})
        assert done.returncode != 0 and b"Read-only file system" in done.stderr, (words, done)
    assert path.read_bytes() == b"text" and s3.listed(both.client, faces.BUCKET).keys() == {"x//k"}


def test_a_bucket_with_an_annex_is_not_removed_and_loses_nothing(both, random):
    bucket = both.on("mount", "")
    put(both, "x//k", b"kept")
    refused(errno.ENOTEMPTY, os.rmdir, bucket)
    refused(errno.ENOTEMPTY, os.rename, both.mount / faces.SECOND, bucket)
    s3.refused(409, "BucketNotEmpty", both.client.delete_bucket, Bucket=faces.BUCKET)
    assert s3.body(both.client, faces.BUCKET, "x//k") == b"kept" == (bucket / annex.TOP / "x=d" / "%=d" / "k=f").read_bytes()
    os.rename(bucket, both.mount / "bucket-renamed")
    assert (both.mount / "bucket-renamed" / annex.TOP / annex.place("x//k")).read_bytes() == b"kept"
    assert s3.body(both.client, "bucket-renamed", "x//k") == b"kept"
    both.client.delete_object(Bucket="bucket-renamed", Key="x//k")
    os.rmdir(both.mount / "bucket-renamed")
    assert os.listdir(both.mount) == [faces.SECOND]


# --- its name ---


def shown(both):
    """What the annex is called, by the one name that leads to the key, and which names there are by listing and one by one."""
    top = both.on("mount", "")
    # By name before the listing, which tells the kernel of names anew.
    there = [name for name in [annex.TOP, *(f"{annex.TOP}~{number}" for number in range(1, 6))] if os.path.lexists(top / name)]
    leads = [name for name in there if os.path.exists(top / name / annex.place("x//k"))]
    assert len(leads) <= 1
    return leads[0] if leads else None, sorted(there), sorted(name for name in os.listdir(top) if name.startswith(annex.TOP))


@pytest.mark.parametrize("who", ["S3", "the mount", "somebody in the directory"])
@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_a_real_entry_keeps_its_name(both, who, what):
    if who == "S3" and what == "link":
        what = "file"  # S3 makes no links
    face = "mount" if who == "the mount" else "disk"

    def make(name):
        path = both.on(face, name)
        if who == "S3":
            put(both, f"{name}/inner" if what == "folder" else name, b"real")
        elif what == "folder":
            path.mkdir()
            (path / "inner").write_bytes(b"real")
        elif what == "link":
            path.symlink_to("inner")
        else:
            path.write_bytes(b"real")

    def take(name):
        if who == "S3":
            gone(both, f"{name}/inner" if what == "folder" else name)
        else:
            shutil.rmtree(both.on(face, name)) if what == "folder" else both.on(face, name).unlink()

    def is_real(name):
        path = both.on("mount", name)
        return os.readlink(path) == "inner" if what == "link" else (path / "inner" if what == "folder" else path).read_bytes() == b"real"

    def shows(name, *real):
        names = sorted([*real, name] if name else real)
        if who == "somebody in the directory":  # of him the kernel is told a moment later
            server.wait_until(lambda: shown(both) == (name, names, names), f"{names} are shown, {name} for the annex")
        assert shown(both) == (name, names, names) and all(map(is_real, real))

    make(annex.TOP)
    shows(None, annex.TOP)
    put(both, "x//k", b"annexed")
    shows(".annex~1", annex.TOP)
    gone(both, "x//k")
    shows(None, annex.TOP)
    make(".annex~1")
    put(both, "x//k", b"annexed")
    shows(".annex~2", annex.TOP, ".annex~1")
    take(annex.TOP)
    shows(annex.TOP, ".annex~1")
    if who == "the mount":
        return  # there the name is taken, and mkdir(2) says so
    make(annex.TOP)
    shows(".annex~2", annex.TOP, ".annex~1")
    take(annex.TOP)
    take(".annex~1")
    shows(annex.TOP)
    assert sorted(s3.listed(both.client, faces.BUCKET)) == ["x//k"]


def test_what_is_called_so_is_taken_in_the_mount(plain):
    put(plain, "x//k", b"annexed")
    top = plain.on("mount", annex.TOP)
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink("x", path), lambda path: os.open(path, os.O_CREAT | os.O_EXCL)):
        refused(errno.EEXIST, make, top)
    refused(errno.EISDIR, os.open, top, os.O_CREAT | os.O_WRONLY)
    refused(errno.ENOENT, os.stat, plain.on("mount", ".annex~1"))
    plain.on("mount", ".annex~1").mkdir()
    assert shown(plain)[0] == annex.TOP
    os.rename(plain.on("mount", ".annex~1"), plain.on("mount", "elsewhere"))
    plain.on("mount", "elsewhere").rmdir()
    assert os.listdir(plain.on("mount", "")) == [annex.TOP]


def test_it_is_at_the_top_of_its_bucket_and_nowhere_else(plain):
    put(plain, "x//k", b"annexed")
    put(plain, "folder/k", b"native")
    shutil.copytree(plain.on("disk", ".twintree"), plain.on("disk", "folder") / ".twintree")
    assert os.listdir(plain.on("mount", "folder")) == ["k"]
    for path in (plain.on("mount", "folder") / annex.TOP, plain.mount / annex.TOP, plain.on("mount", annex.TOP, faces.SECOND),
                 plain.on("mount", annex.TOP) / annex.TOP, plain.on("mount", annex.TOP) / "x=d" / annex.TOP):
        refused(errno.ENOENT, os.stat, path)
    plain.on("mount", "folder", faces.SECOND).mkdir()
    os.rename(plain.on("mount", "folder"), plain.on("mount", "moved", faces.SECOND))
    assert os.listdir(plain.on("mount", "moved", faces.SECOND)) == ["k"]


def test_names_that_the_operator_hides_are_hidden_and_the_annex_too(tmp_path):
    with faces.Faces(tmp_path, "--hide", ".annex", "--hide", "@eaDir", *HOUR) as both:
        put(both, "x//k", b"annexed")
        both.on("disk", annex.TOP).mkdir()
        assert os.listdir(both.on("mount", "")) == [".annex~1"]
        refused(errno.ENOENT, os.stat, both.on("mount", annex.TOP))
        hidden = both.on("disk", ".twintree") / "annex" / "x=d" / "@eaDir=d"
        hidden.mkdir()
        (hidden / "k=f").write_bytes(b"x")
        assert found_in(both.on("mount", ".annex~1")) == {"x//k": 7}
        refused(errno.ENOENT, os.stat, both.on("mount", ".annex~1") / "x=d" / "@eaDir=d")
        assert list(s3.listed(both.client, faces.BUCKET)) == ["x//k"]


class Dirent(ctypes.Structure):
    """struct dirent64."""
    _fields_ = [("number", ctypes.c_uint64), ("offset", ctypes.c_int64), ("length", ctypes.c_ushort), ("kind", ctypes.c_ubyte), ("name", ctypes.c_char * 256)]


LIBC.opendir.restype, LIBC.opendir.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
LIBC.readdir64.restype, LIBC.readdir64.argtypes = ctypes.POINTER(Dirent), [ctypes.c_void_p]
LIBC.seekdir.restype, LIBC.seekdir.argtypes = None, [ctypes.c_void_p, ctypes.c_long]
LIBC.closedir.argtypes = [ctypes.c_void_p]
Entry = collections.namedtuple("Entry", "name number offset")


def entries_of(path, offset=0):
    """What readdir(3) gives of a folder from an offset on, `.` and `..` among it."""
    folder = LIBC.opendir(os.fsencode(path))
    assert folder
    LIBC.seekdir(folder, offset)
    while entry := LIBC.readdir64(folder):
        name = ctypes.string_at(ctypes.addressof(entry.contents) + Dirent.name.offset)
        yield Entry(name, entry.contents.number, entry.contents.offset)
    LIBC.closedir(folder)


# --- nothing else of ours ---


def junk(folder):
    """What no key leads to, as somebody in the directory may leave it."""
    (folder / "stray").write_bytes(b"x")
    (folder / "k.tmp=f~").write_bytes(b"x")
    (folder / "%2e=f").write_bytes(b"not as we write it")
    (folder / "%61=f").write_bytes(b"nor this")
    (folder / "%=f").write_bytes(b"the empty key") if folder.name == "annex" else None
    (folder / "=f").write_bytes(b"x")
    (folder / "%00=f").write_bytes(b"x")
    (folder / ".twintree=f").write_bytes(b"x")
    (folder / ".twintree=d").mkdir()
    (folder / ".twintree=d" / "k=f").write_bytes(b"x")
    (folder / "plain").mkdir()
    (folder / "plain" / "k=f").write_bytes(b"x")
    (folder / "short=c").mkdir()
    (folder / "short=c" / "k=f").write_bytes(b"x")
    (folder / "folder=f").mkdir()
    (folder / "body=d").write_bytes(b"x")
    (folder / "link=f").symlink_to("../bucket.json")
    (folder / "up=d").symlink_to("..")
    os.mkfifo(folder / "fifo=f")
    (folder / ".nfs0001").write_bytes(b"x")


def test_what_no_key_leads_to_is_not_shown(plain):
    put(plain, "x//k", b"annexed")
    ours = plain.on("disk", ".twintree") / "annex"
    gone(plain, "x//k")
    junk(ours)
    assert os.listdir(plain.on("mount", "")) == [], "junk alone makes no annex"
    put(plain, "x//k", b"annexed")
    junk(ours / "x=d")
    top = plain.on("mount", annex.TOP)
    assert found_in(top) == {"x//k": 7} and os.listdir(top) == ["x=d"] and os.listdir(top / "x=d") == ["%=d"]
    for folder in (ours, ours / "x=d"):
        for name in os.listdir(folder):
            if name not in ("x=d", "%=d"):
                refused(errno.ENOENT, os.stat, top / os.path.relpath(folder / name, ours), follow_symlinks=False)
    assert list(s3.listed(plain.client, faces.BUCKET)) == ["x//k"]


def test_no_way_leads_from_it_into_the_reserved_directory(plain):
    for key in ("x//k", "../annex", "..//.."):
        put(plain, key, b"annexed")
    bucket = plain.on("mount", "")
    numbers = {os.lstat(path).st_ino for path in [plain.on("disk", ".twintree"), *plain.on("disk", ".twintree").rglob("*")]}
    top = bucket / annex.TOP
    for folder in [top, *(path for path in top.rglob("*") if path.is_dir())]:
        assert (folder / "..").samefile(folder.parent) and (folder / ".").samefile(folder)
        listed = {entry.name: entry.number for entry in entries_of(folder)}
        assert listed[b"."] == folder.stat().st_ino and listed[b".."] == folder.parent.stat().st_ino
        assert not numbers & set(listed.values())
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for name in (".twintree", "annex", "stage", "bucket.json", "locks", "../.twintree", "../../.twintree", "../annex", "..=d/../bucket.json"):
            refused(errno.ENOENT, os.stat, name, dir_fd=file)
        os.close(file)
    assert not numbers & {os.lstat(path).st_ino for path in bucket.rglob("*")}, "numbers are its own"
    assert sorted(os.listdir(top / "..")) == [annex.TOP]


class Handle(ctypes.Structure):
    """struct file_handle of open_by_handle_at(2)."""
    _fields_ = [("bytes", ctypes.c_uint), ("kind", ctypes.c_int), ("value", ctypes.c_ubyte * 128)]


def test_no_file_handle_leads_into_the_reserved_directory(plain):
    put(plain, "x//k", b"annexed")
    mount = os.open(plain.mount, os.O_RDONLY | os.O_DIRECTORY)
    ours = [plain.on("disk", ".twintree"), *plain.on("disk", ".twintree").rglob("*"), plain.on("mount", annex.TOP)]
    forged = []
    for number in [os.lstat(path).st_ino for path in ours]:
        for kind, words in ((0x81, [number & 0xffffffff, number >> 32, 0]), (0x82, [number & 0xffffffff, number >> 32, 0] * 2), (1, [number, 0])):
            value = b"".join((word & 0xffffffff).to_bytes(4, "little") for word in words)
            forged.append(Handle(len(value), kind, (ctypes.c_ubyte * 128)(*value)))
    real = Handle(128, 0)
    number = ctypes.c_int()
    if LIBC.name_to_handle_at(-100, os.fsencode(plain.on("mount", annex.TOP)), ctypes.byref(real), ctypes.byref(number), 0) == 0:
        forged.append(real)
    for handle in forged:
        assert LIBC.open_by_handle_at(mount, ctypes.byref(handle), os.O_RDONLY) == -1
        assert ctypes.get_errno() in (errno.ESTALE, errno.EOPNOTSUPP, errno.EINVAL)
    os.close(mount)


def test_numbers_are_of_one_file_each(filled):
    both, _ = filled
    every = [both.mount, *both.mount.rglob("*")]
    numbers = [os.lstat(path).st_ino for path in every]
    assert len(set(numbers)) == len(every)
    for path in every:
        if path.is_dir():
            with os.scandir(path) as entries:
                assert all(entry.inode() == os.lstat(path / entry.name).st_ino for entry in entries), path


def test_a_link_to_a_body_is_a_file_of_its_own(both, random):
    body = random.bytes(2000)
    put(both, "x//k", body)
    os.link(both.on("disk", ".twintree") / "annex" / annex.place("x//k"), both.on("disk", "linked"))
    linked, inside = both.on("mount", "linked"), both.on("mount", annex.TOP) / annex.place("x//k")
    refused(errno.EROFS, os.open, inside, os.O_RDWR)
    with open(linked, "r+b") as file:
        refused(errno.EROFS, os.open, inside, os.O_RDWR)
        file.write(b"changed")
    refused(errno.EROFS, os.truncate, inside, 0)
    assert linked.read_bytes() == b"changed" + body[7:] == s3.body(both.client, faces.BUCKET, "x//k")
    assert s3.etag(both.client, faces.BUCKET, "x//k") != data.md5(body)
    os.unlink(linked)
    assert (both.on("disk", ".twintree") / "annex" / annex.place("x//k")).exists()


def test_a_long_folder_is_listed_with_its_annex_once_from_any_place(plain):
    put(plain, "x//k", b"annexed")
    names = {f"{'long' * 20}-{number:04}" for number in range(2000)}
    for name in names:
        plain.on("disk", name).touch()
    expected = sorted([*names, annex.TOP])
    for _ in range(2):
        assert sorted(os.listdir(plain.on("mount", ""))) == expected
    for each in (0, 1999, 2000, 2001):
        seen = list(entries_of(plain.on("mount", "")))
        assert len(seen) == 2003 and len({entry.offset for entry in seen}) == 2003
        assert list(entries_of(plain.on("mount", ""), seen[each].offset)) == seen[each + 1:]
    for number in range(2000):
        if number % 2:
            plain.on("mount", sorted(names)[number]).unlink()
    assert len(os.listdir(plain.on("mount", ""))) == 1001
    gone(plain, "x//k")
    assert len(os.listdir(plain.on("mount", ""))) == 1000


# --- who may look, and from where ---


def as_user(program, *words):
    """Runs a few lines as an ordinary user; gives what they print."""
    user = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
    done = subprocess.run([*user, sys.executable, "-c", "import errno, os, sys\n" + program, *map(str, words)],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOOK = """def word(call, *words):
    try:
        return call(*words)
    except OSError as error:
        return errno.errorcode[error.errno]
print(".annex" in os.listdir(sys.argv[1]), word(os.listdir, sys.argv[1] + "/.annex"), word(lambda: open(sys.argv[2]).read()),
      word(os.open, sys.argv[2], os.O_WRONLY), word(os.unlink, sys.argv[2]))
"""


def test_others_may_look_as_far_as_modes_on_disk_let_them(tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    with faces.Faces(tmp_path, "--mount-allow-other") as both:
        put(both, "x//k", b"annexed")
        words = both.on("mount", ""), both.on("mount", annex.TOP) / annex.place("x//k")
        assert as_user(LOOK, *words) == "True EACCES EACCES EACCES EACCES"
        (both.on("disk", ".twintree") / "annex").chmod(0o755)
        server.wait_until(lambda: stat.S_IMODE(both.on("mount", annex.TOP).stat().st_mode) == 0o755, "the mode shows")
        assert as_user(LOOK, *words) == "True ['x=d'] annexed EACCES EACCES"
        path = both.on("disk", ".twintree") / "annex" / annex.place("x//k")
        path.chmod(0o666)
        path.parent.chmod(0o777)
        server.wait_until(lambda: stat.S_IMODE(os.stat(words[1]).st_mode) == 0o666, "the mode shows")
        server.wait_until(lambda: stat.S_IMODE(os.stat(words[1].parent).st_mode) == 0o777, "the mode shows")
        assert as_user(LOOK, *words) == "True ['x=d'] annexed EROFS EROFS"


def test_a_read_only_mount_shows_it(tmp_path, random):
    body = random.bytes(1000)
    with faces.Faces(tmp_path) as both:
        put(both, "x//k", body)
    with faces.Faces(tmp_path, "--read-only") as both:
        path = both.on("mount", annex.TOP) / annex.place("x//k")
        assert path.read_bytes() == body and os.getxattr(path, KEY) == b"x//k"
        refused(errno.EROFS, os.unlink, path)


@contextlib.contextmanager
def on(filesystem, folder):
    """`folder/tree` lies on another filesystem. overlayfs lies on a tmpfs, as it does not on itself."""
    (folder / "tree").mkdir()
    with trees.Mount(folder / "below", "ramfs" if filesystem == "ramfs" else "tmpfs", 16):
        for name in ("lower", "upper", "work"):
            (folder / "below" / name).mkdir()
        options = f"lowerdir={folder}/below/lower,upperdir={folder}/below/upper,workdir={folder}/below/work"
        how = ["-t", "overlay", "overlay", "-o", options] if filesystem == "overlay" else ["--bind", folder / "below" / "upper"]
        subprocess.run(["mount", *how, folder / "tree"], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", folder / "tree"], check=True)


@pytest.mark.parametrize("filesystem", ["overlay", "ramfs", "tmpfs"])
def test_it_is_the_same_on_filesystems_without_handles_or_xattrs(tmp_path, random, filesystem):
    top, below = tmp_path / "mount" / faces.BUCKET, f"{annex.TOP}/{annex.place('x//k')}"
    with on(filesystem, tmp_path), faces.Faces(tmp_path, *HOUR) as both:
        assert both.said(r"inodes=\W*by (\w+)") == ("file" if filesystem == "tmpfs" else "descriptor")
        for turn in range(3):
            body = random.bytes(1000 + turn)
            assert look(top, below, random)[1] != body
            put(both, "x//k", body, Metadata={"turn": str(turn)})
            assert look(top, below, random) == whole(body)
            if filesystem != "ramfs":
                assert json.loads(xattr(top, below, META))["meta"] == {"turn": str(turn)}
        refused(errno.EROFS, os.unlink, top / below)
        gone(both, "x//k")
        assert look(top, below, random) == GONE and os.listdir(top) == []


def test_a_mount_of_another_process_shows_it_within_the_ttl(tmp_path, served, tree, client, random):
    client.create_bucket(Bucket=faces.BUCKET)
    (tmp_path / "mount").mkdir()
    point = tmp_path / "mount"
    with open(tmp_path / "said", "wb") as said:
        process = subprocess.Popen([server.BINARY, "mount", str(tree), str(point)], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                                   env=command.environment())
    try:
        server.wait_until(lambda: faces.is_mounted(point), "the mount stands")
        top = point / faces.BUCKET
        keys = [key for key, before in KINDS.values() if not before]
        for body in (random.bytes(700), random.bytes(900), None):
            for key in keys:
                look(top, f"{annex.TOP}/{annex.place(key)}", random)  # the kernel keeps what it saw
                if body is None:
                    client.delete_object(Bucket=faces.BUCKET, Key=key)
                else:
                    client.put_object(Bucket=faces.BUCKET, Key=key, Body=body)
            threading.Event().wait(1.1)  # the TTL is the claim here: what was kept for a second is over
            expected = GONE if body is None else whole(body)
            assert [key for key in keys if look(top, f"{annex.TOP}/{annex.place(key)}", random) != expected] == []
            assert (annex.TOP in os.listdir(top)) == (body is not None)
            if body is not None:
                refused(errno.EROFS, os.unlink, top / annex.TOP / annex.place("a//b"))
    finally:
        process.terminate()
        try:
            assert process.wait(20) == 0, (tmp_path / "said").read_text()
        finally:
            process.kill()
            process.wait()
            faces.unmount(point)


def test_who_walks_it_while_s3_changes_it_sees_whole_bodies_or_none(both, random):
    bodies = {f"x//{number % 3}//{number}": [random.bytes(5000 + number), random.bytes(50_000 + number)] for number in range(12)}
    allowed = {key: {data.md5(body) for body in both_} for key, both_ in bodies.items()}
    wrong, over = [], threading.Event()

    def walk():
        top = both.on("mount", annex.TOP)
        while not over.is_set():
            for folder, _, names in os.walk(top):
                for name in names:
                    path = os.path.join(folder, name)
                    with faces.absent():
                        try:
                            body = open(path, "rb").read()
                        except OSError as error:
                            if error.errno == errno.ESTALE:  # it went between the lookup and the open: open(2) says so twice
                                continue
                            raise
                        key = annex.key_at(os.path.relpath(path, top))
                        if data.md5(body) not in allowed[key]:
                            wrong.append(key)

    walkers = [threading.Thread(target=walk) for _ in range(2)]
    for walker in walkers:
        walker.start()
    try:
        for _ in range(15):
            for key, versions in bodies.items():
                put(both, key, random.draw().choice(versions))
            for key in random.draw().sample(sorted(bodies), 8):
                gone(both, key)
    finally:
        over.set()
        for walker in walkers:
            walker.join()
    assert wrong == []
    left = s3.listed(both.client, faces.BUCKET)
    assert found_in(both.on("mount", annex.TOP)) == {key: entry["Size"] for key, entry in left.items()}
