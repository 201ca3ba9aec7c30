"""The mount in detail: names kept back, xattrs, buckets at the top, names of any bytes, the kernel's errors, files in use, numbers used again.

Each claim holds in plain and in passthrough mode where bytes or handles are in it; S3 must see the same objects.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import mmap
import os
import stat
import subprocess
import sys
import tempfile
import urllib.parse

import pytest
from lib import command, faces, s3, server, tables, trace, tree as trees

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="a mount of this suite needs root and /dev/fuse")

OWNERS = ("user.twintree", "user.twintree.dir", "user.twintree.other")
META = "user.twintree.meta"
AT_FDCWD, NOREPLACE, EXCHANGE = -100, 1, 2
LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(params=["plain", "passthrough"])
def both(tmp_path, request):
    """A tree with both faces."""
    with faces.Faces(tmp_path, "--mount-mode", request.param) as both:
        yield both


@pytest.fixture
def plain(tmp_path):
    """A tree with both faces, for what no mode changes."""
    with faces.Faces(tmp_path, "--mount-mode", "plain") as both:
        yield both


@contextlib.contextmanager
def refused(*numbers):
    """What fails with one of these errors."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno in numbers, caught.value


def written(path, body):
    """Writes a file and gives its path back."""
    path.write_bytes(body)
    return path


def sealed(both, random, key="object"):
    """An object with an MD5 that was recorded: its body and its path in the mount."""
    body = random.bytes(5000)
    both.client.put_object(Bucket=faces.BUCKET, Key=key, Body=body)
    return body, both.on("mount", key)


def etag(both, key="object"):
    """What S3 answers of an object."""
    return s3.etag(both.client, faces.BUCKET, key)


def rename(source, target, flags):
    """renameat2(2)."""
    if LIBC.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# --- xattrs ---


def test_records_are_hidden_and_what_was_said_of_an_object_is_not(both, random):
    both.client.put_object(Bucket=faces.BUCKET, Key="object", Body=random.bytes(100), Metadata={"colour": "blue"})
    path = both.on("mount", "object")
    assert "user.twintree" in os.listxattr(both.on("disk", "object"))
    assert os.listxattr(path) == [META]
    assert json.loads(os.getxattr(path, META)) == json.loads(os.getxattr(both.on("disk", "object"), META))
    for name in OWNERS:
        with refused(errno.ENODATA):
            os.getxattr(path, name)
        with refused(errno.EPERM):
            os.setxattr(path, name, b"1")
        with refused(errno.EPERM):
            os.removexattr(path, name)


def test_what_setfattr_says_of_an_object_is_what_boto3_reads(both, random):
    said = {}
    for key in ("one", "two"):
        both.client.put_object(Bucket=faces.BUCKET, Key=key, Body=random.bytes(100), Metadata={"key": key})
        said[key] = os.getxattr(both.on("mount", key), META)
    os.setxattr(both.on("mount", "two"), META, said["one"])
    assert both.client.head_object(Bucket=faces.BUCKET, Key="two")["Metadata"] == {"key": "one"}
    written(both.on("mount", "native"), b"of the mount")
    os.setxattr(both.on("mount", "native"), META, said["two"], os.XATTR_CREATE)
    assert both.client.head_object(Bucket=faces.BUCKET, Key="native")["Metadata"] == {"key": "two"}
    with refused(errno.EEXIST):
        os.setxattr(both.on("mount", "native"), META, said["two"], os.XATTR_CREATE)
    os.removexattr(both.on("mount", "native"), META)
    assert both.client.head_object(Bucket=faces.BUCKET, Key="native")["Metadata"] == {}
    with refused(errno.ENODATA):
        os.removexattr(both.on("mount", "native"), META)


@pytest.mark.parametrize("value", [b"", b"no json", b"[]", b'{"unknown', b"\xff"])
def test_what_is_no_metadata_is_not_taken(plain, random, value):
    _, path = sealed(plain, random)
    with refused(errno.EINVAL):
        os.setxattr(path, META, value)
    assert META not in os.listxattr(path)


def test_xattrs_of_others_are_nobody_elses_business(both, random):
    body, path = sealed(both, random)
    os.setxattr(path, "user.twintreelike", b"1")
    os.setxattr(path, "user.other", b"\0\xff", os.XATTR_CREATE)
    assert sorted(os.listxattr(path)) == ["user.other", "user.twintreelike"]
    assert os.getxattr(both.on("disk", "object"), "user.other") == b"\0\xff"
    os.removexattr(path, "user.other")
    assert os.listxattr(path) == ["user.twintreelike"]
    assert etag(both) == hashlib.md5(body).hexdigest()


# --- names ---


@pytest.mark.parametrize("folder", ["", "one", "one/two"])
def test_our_own_folder_is_neither_seen_nor_reached_at_any_depth(plain, folder):
    native = plain.on("disk", folder)
    native.mkdir(parents=True, exist_ok=True)
    (native / ".twintree").mkdir(exist_ok=True)
    (native / ".twintree" / "secret").write_bytes(b"secret")
    place = plain.on("mount", folder)
    written(place / "mine", b"mine")
    assert ".twintree" not in os.listdir(place)
    hidden = place / ".twintree"
    for reach in (os.stat, os.listdir, os.rmdir, os.unlink, lambda path: os.open(path, os.O_RDONLY)):
        with refused(errno.ENOENT):
            reach(hidden)
    with refused(errno.ENOENT):
        os.stat(hidden / "secret")
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink("mine", path), lambda path: os.link(place / "mine", path),
                 lambda path: os.rename(place / "mine", path), lambda path: os.open(path, os.O_CREAT | os.O_WRONLY)):
        with refused(errno.EPERM):
            make(hidden)
    with refused(errno.ENOENT, errno.EPERM):
        os.rename(hidden, place / "taken")
    assert (native / ".twintree" / "secret").read_bytes() == b"secret" and (place / "mine").read_bytes() == b"mine"


def test_the_top_is_the_buckets_and_makes_and_removes_them(plain):
    (plain.disk / "no bucket's name").mkdir()
    (plain.disk / "a-plain-file").write_bytes(b"x")
    assert sorted(os.listdir(plain.mount)) == [faces.BUCKET, faces.SECOND]
    for name in ("no bucket's name", "a-plain-file"):
        with refused(errno.ENOENT):
            os.stat(plain.mount / name)
    os.mkdir(plain.mount / "bucket-new")
    buckets = [bucket["Name"] for bucket in plain.client.list_buckets()["Buckets"]]
    assert buckets == sorted(os.listdir(plain.mount)) == ["bucket-new", faces.BUCKET, faces.SECOND]
    for name in ("No", "xy", "under_score", ".twintree", "192.168.0.1"):
        with refused(errno.EPERM):
            os.mkdir(plain.mount / name)
    for make in (os.mkfifo, lambda path: os.symlink("x", path), lambda path: path.write_bytes(b"x")):
        with refused(errno.EPERM):
            make(plain.mount / "some-name")


def test_a_bucket_goes_with_rmdir_when_it_is_empty_only(plain):
    plain.client.put_object(Bucket=faces.BUCKET, Key="object", Body=b"1")
    (plain.mount / faces.SECOND / "folder").mkdir()
    for bucket in (faces.BUCKET, faces.SECOND):
        with refused(errno.ENOTEMPTY):
            os.rmdir(plain.mount / bucket)
    plain.client.delete_object(Bucket=faces.BUCKET, Key="object")
    (plain.mount / faces.SECOND / "folder").rmdir()
    for bucket in (faces.BUCKET, faces.SECOND):
        os.rmdir(plain.mount / bucket)
        s3.refused(404, "NoSuchBucket", plain.client.list_objects_v2, Bucket=bucket)
    assert os.listdir(plain.mount) == []


NAMES = [(b"latin-\xe9", "latin-\U0010fee9"), (b"\xff\xfe", "\U0010feff\U0010fefe"), (b"tab\there", "tab\there"),
         (b"new\nline", "new\nline"), (b"\x01\x7f", "\x01\x7f"), ("ünïcödé €".encode(), "ünïcödé €"), (b"a+b %41&", "a+b %41&"),
         (b" lead and trail ", " lead and trail ")]


@pytest.mark.parametrize("name, key", NAMES, ids=[str(number) for number in range(len(NAMES))])
def test_names_of_any_bytes_are_names_in_both_faces(plain, random, name, key):
    body = random.bytes(100)
    folder = os.fsencode(plain.mount / faces.BUCKET)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(body)
    assert os.listdir(folder) == [name] and os.path.exists(os.path.join(os.fsencode(plain.disk / faces.BUCKET), name))
    assert s3.body(plain.client, faces.BUCKET, key) == body
    assert [urllib.parse.unquote(found) for found in s3.listed(plain.client, faces.BUCKET, EncodingType="url")] in ([key], [urllib.parse.unquote(key)])
    plain.client.put_object(Bucket=faces.BUCKET, Key=key, Body=body + b"!")
    with open(os.path.join(folder, name), "rb") as file:
        assert file.read() == body + b"!"


def test_names_too_long_and_links_in_circles_are_the_kernels_own_errors(plain):
    folder = plain.on("mount", "")
    with refused(errno.ENAMETOOLONG):
        written(folder / ("x" * 256), b"1")
    with refused(errno.ENAMETOOLONG):
        os.stat(folder / ("x" * 256))
    written(folder / ("x" * 255), b"1")
    os.symlink("circle", folder / "circle")
    with refused(errno.ELOOP):
        os.stat(folder / "circle")
    with refused(errno.ENOTDIR):
        os.stat(folder / ("x" * 255) / "below")
    with refused(errno.EXDEV):
        os.link(folder / ("x" * 255), plain.mount.parent / "outside")


# --- files in use ---


def test_a_removed_file_lives_until_it_is_closed(both, random):
    body, path = sealed(both, random)
    with open(path, "r+b") as file:
        os.unlink(path)
        assert file.read() == body
        found = os.fstat(file.fileno())
        assert (found.st_size, found.st_nlink) == (len(body), 0)
        file.write(b"more")
        file.flush()
        os.fchmod(file.fileno(), 0o600)
        os.ftruncate(file.fileno(), 10)
        assert os.pread(file.fileno(), 100, 0) == body[:10] and os.fstat(file.fileno()).st_size == 10
    s3.refused(404, "NoSuchKey", both.client.get_object, Bucket=faces.BUCKET, Key="object")


def test_rename_exchanges_and_refuses_to_replace(both, random):
    one, two = random.bytes(1000), random.bytes(2000)
    for key, body in (("one", one), ("two", two)):
        both.client.put_object(Bucket=faces.BUCKET, Key=key, Body=body)
    with refused(errno.EEXIST):
        rename(both.on("mount", "one"), both.on("mount", "two"), NOREPLACE)
    rename(both.on("mount", "one"), both.on("mount", "two"), EXCHANGE)
    for face in ("mount", "disk"):
        assert both.on(face, "one").read_bytes() == two and both.on(face, "two").read_bytes() == one
    assert (etag(both, "one"), etag(both, "two")) == (hashlib.md5(two).hexdigest(), hashlib.md5(one).hexdigest())
    rename(both.on("mount", "one"), both.on("mount", "three"), NOREPLACE)
    assert s3.body(both.client, faces.BUCKET, "three") == two and etag(both, "three") == hashlib.md5(two).hexdigest()
    os.rename(both.on("mount", "three"), both.on("mount", "there", faces.SECOND))
    assert s3.etag(both.client, faces.SECOND, "there") == hashlib.md5(two).hexdigest()
    assert list(s3.listed(both.client, faces.BUCKET)) == ["two"]


def test_holes_are_found_and_made(both, random):
    path, body = both.on("mount", "sparse"), random.bytes(65536)
    with open(path, "w+b", buffering=0) as file:
        os.pwrite(file.fileno(), body, 1 << 20)
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 1 << 20
        assert os.lseek(file.fileno(), 1 << 20, os.SEEK_HOLE) == (1 << 20) + 65536
        with refused(errno.ENXIO):
            os.lseek(file.fileno(), 1 << 21, os.SEEK_DATA)
        os.posix_fallocate(file.fileno(), 1 << 21, 4096)
        assert os.fstat(file.fileno()).st_size == (1 << 21) + 4096
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)
    assert path.read_bytes() == both.on("disk", "sparse").read_bytes() == s3.body(both.client, faces.BUCKET, "sparse")


def test_times_are_kept_to_the_nanosecond_before_1970_as_well(both, random):
    _, path = sealed(both, random)
    for accessed, modified in ((1_234_567_890_123_456_789, 987_654_321_987_654_321), (5, 999_999_999), (-1, -1_500_000_001)):
        os.utime(path, ns=(accessed, modified))
        for face in ("mount", "disk"):
            found = os.stat(both.on(face, "object"))
            assert (found.st_atime_ns, found.st_mtime_ns) == (accessed, modified), face


def test_two_names_of_one_file_are_one_object_twice(both, random):
    body, path = sealed(both, random)
    other = path.with_name("other")
    os.link(path, other)
    assert os.stat(path).st_nlink == 2 and os.stat(path).st_ino == os.stat(other).st_ino
    assert etag(both) == etag(both, "other") == hashlib.md5(body).hexdigest()
    other.write_bytes(b"both are new")
    assert path.read_bytes() == b"both are new" == s3.body(both.client, faces.BUCKET, "object")
    assert hashlib.md5(body).hexdigest() not in (etag(both), etag(both, "other"))


def test_a_write_of_any_kind_ends_the_record_even_when_the_time_is_put_back(both, random):
    for number, write in enumerate((lambda file: os.pwrite(file, b"?", 1), lambda file: os.ftruncate(file, 5000 - 1),
                                    lambda file: os.posix_fallocate(file, 5000, 1))):
        body, path = sealed(both, random, f"object-{number}")
        before = os.stat(path)
        file = os.open(path, os.O_RDWR)
        write(file)
        os.close(file)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert etag(both, f"object-{number}") != hashlib.md5(body).hexdigest(), number


def test_a_file_that_is_open_for_writing_answers_no_recorded_etag(both, random):
    body, path = sealed(both, random)
    file = os.open(path, os.O_WRONLY)
    try:
        while_open = etag(both)
    finally:
        os.close(file)
    assert while_open != hashlib.md5(body).hexdigest() and while_open.endswith("-1")


# --- who is in it ---


class Inside:
    """A process whose working directory lies in the mount, and what it holds of its path."""

    def __init__(self, folder):
        program = ("import os, sys\nos.chdir(sys.argv[1])\nprint(flush=True)\nfor _ in sys.stdin:\n"
                   "    try:\n        print(os.getcwd(), flush=True)\n    except OSError as error:\n        print(error, flush=True)\n")
        self.process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def where(self):
        print(file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def heard(both):
    """Waits until the watcher has dealt with all that was done until now: with a change that comes after it."""
    name = f"sentinel-{len(os.listdir(both.on('disk', '')))}"
    both.on("disk", name).write_bytes(b"one")
    assert both.on("mount", name).stat().st_size == 3
    both.on("disk", name).write_bytes(b"another")
    server.wait_until(lambda: both.on("mount", name).stat().st_size == 7, "the watcher has told of a direct change")


@pytest.fixture
def watched(tmp_path):
    """A mount that shows what is done directly when it is told, and not before."""
    with faces.Faces(tmp_path, "--mount-ttl", "3600s") as both:
        server.wait_until(lambda: both.said("(heard of at once)"), "the watcher says what it watches")
        yield both


def test_a_folder_that_somebody_is_in_keeps_its_path_whatever_s3_puts_into_it(watched):
    folder = watched.on("mount", "outer/inner")
    folder.mkdir(parents=True)
    heard(watched)
    with Inside(folder) as process:
        for key in ("outer/inner/new/folder/object", "outer/inner/object", "outer/inner/", "outer/beside/object", "outer/"):
            watched.client.put_object(Bucket=faces.BUCKET, Key=key, Body=b"")
            assert process.where() == str(folder), key
            heard(watched)
            assert process.where() == str(folder), f"{key}, when the watcher had told of it"


def test_what_was_just_made_or_moved_keeps_its_path_when_the_watcher_tells_of_it(watched):
    folder = watched.on("mount", "folder")
    folder.mkdir()
    with Inside(folder) as process, open(folder / "file", "wb") as file:
        heard(watched)
        assert process.where() == str(folder)
        assert os.readlink(f"/proc/self/fd/{file.fileno()}") == str(folder / "file")
        moved = watched.on("mount", "moved")
        os.rename(folder, moved)
        os.rename(moved / "file", moved / "other")
        heard(watched)
        assert process.where() == str(moved)
        assert os.readlink(f"/proc/self/fd/{file.fileno()}") == str(moved / "other")
    watched.client.put_object(Bucket=faces.BUCKET, Key="moved/other", Body=b"of S3")
    assert (moved / "other").read_bytes() == b"of S3"


# --- what POSIX says of the whole ---


def test_a_mapping_is_shared_between_processes_without_a_sync(both):
    path = written(both.on("mount", "file"), b"old" + bytes(8189))
    program = "import mmap, sys\nwith open(sys.argv[1], 'r+b') as file, mmap.mmap(file.fileno(), 0) as pages:\n    pages[:3] = b'new'\n"
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        assert pages[:3] == b"old"
        subprocess.run([sys.executable, "-c", program, str(path)], check=True)
        assert pages[:3] == b"new"
        file.seek(0)
        assert file.read(3) == b"new"


def test_what_is_written_is_below_at_once_and_kept_back_by_no_cache(both, random):
    body = random.bytes(20_000)
    with open(both.on("mount", "file"), "wb", buffering=0) as file:
        file.write(body)
        assert both.on("disk", "file").read_bytes() == body
        assert s3.body(both.client, faces.BUCKET, "file") == body


@pytest.mark.parametrize("mode, used, why", [("auto", "passthrough", "allow it"), ("plain", "plain", "asked for")])
def test_the_log_says_how_files_are_read_and_written_and_it_is_true(tmp_path, random, mode, used, why):
    with faces.Faces(tmp_path, "--mount-mode", mode) as both:
        written(both.on("mount", "file"), random.bytes(5000)).read_bytes()
        assert both.said(r"reading_and_writing=\W*(\w+)") == used and why in both.said(r"because=(.*)")
    assert int(both.said(r"opened_in_passthrough=(\d+)")) == (2 if used == "passthrough" else 0)


def test_a_store_into_a_mapping_moves_the_time_that_stat_shows(tmp_path, random):
    """In passthrough nobody tells the kernel of it: so it must not keep what it knows of a file that is open for writing."""
    with faces.Faces(tmp_path, "--mount-ttl", "3600s", "--watch", "off") as both:
        path = written(both.on("mount", "file"), random.bytes(8192))
        os.utime(path, ns=(1, 1))
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
            assert os.stat(path).st_mtime_ns == 1
            pages[0] ^= 1
            assert os.stat(path).st_mtime_ns == both.on("disk", "file").stat().st_mtime_ns > 1


def test_what_has_no_room_in_the_file_comes_along_to_another_bucket(both, random):
    """What lies in `records/` of a bucket, another bucket would not find: the kernel's word is EXDEV, and mv(1) copies."""
    said = {f"key-{number}": "v" * 180 for number in range(9)}
    tags = [{"Key": f"tag-{number}", "Value": "t" * 250} for number in range(10)]
    bodies = {key: random.bytes(1000) for key in ("file", "folder/below/file")}
    for key, body in bodies.items():
        tagging = "&".join(f"{tag['Key']}={tag['Value']}" for tag in tags)
        both.client.put_object(Bucket=faces.BUCKET, Key=key, Body=body, Metadata=said, Tagging=tagging)
    both.client.put_object(Bucket=faces.SECOND, Key="small/file", Body=b"small", Metadata={"from": "two"})
    is_beside = any(both.on("disk", ".twintree").glob("records/?*"))
    kind = subprocess.run(["stat", "-f", "-c", "%T", both.on("disk", "file")], capture_output=True, text=True, check=True).stdout
    assert is_beside or "ext" not in kind, "ext4 has room for 4 KiB"
    if is_beside:
        with refused(errno.EXDEV):
            os.link(both.on("mount", "file"), both.on("mount", "file", faces.SECOND))
        for name in ("file", "folder"):
            with refused(errno.EXDEV):
                rename(both.on("mount", name), both.on("mount", name, faces.SECOND), NOREPLACE)
            with refused(errno.EXDEV):
                rename(both.on("mount", "small", faces.SECOND), both.on("mount", name), EXCHANGE)
    for name in ("file", "folder"):
        subprocess.run(["mv", both.on("mount", name), both.on("mount", name, faces.SECOND)], check=True)
    for key, body in bodies.items():
        assert both.client.get_object(Bucket=faces.SECOND, Key=key)["Body"].read() == body
        assert both.client.head_object(Bucket=faces.SECOND, Key=key)["Metadata"] == said
        assert both.client.get_object_tagging(Bucket=faces.SECOND, Key=key)["TagSet"] == tags
    both.on("disk", "nobody-put", faces.SECOND).write_bytes(b"x")
    both.client.put_object_tagging(Bucket=faces.SECOND, Key="nobody-put", Tagging={"TagSet": tags})
    assert both.client.get_object_tagging(Bucket=faces.SECOND, Key="nobody-put")["TagSet"] == tags
    assert s3.etag(both.client, faces.SECOND, "nobody-put").endswith("-1"), "nobody has read it"
    os.rename(both.on("mount", "small/file", faces.SECOND), both.on("mount", "small"))
    assert both.client.head_object(Bucket=faces.BUCKET, Key="small")["Metadata"] == {"from": "two"}
    assert list(s3.listed(both.client, faces.BUCKET)) == ["small"]


def test_where_no_file_has_xattrs_metadata_is_s3s_alone(tmp_path):
    """ramfs: each record lies beside the files, bound to one by its stamp. Nothing carries it to a copy, and no copy is taken for the object."""
    (tmp_path / "tree").mkdir()
    with trees.Mount(tmp_path / "tree", "ramfs", 8), faces.Faces(tmp_path, "--mount-mode", "plain") as both:
        both.client.put_object(Bucket=faces.BUCKET, Key="file", Body=b"x", Metadata={"colour": "red"})
        path, moved = both.on("mount", "file"), both.on("mount", "file", faces.SECOND)
        assert os.listxattr(path) == []
        for call in (os.link, os.rename):
            with refused(errno.EXDEV):
                call(path, moved)
        os.rename(path, both.on("mount", "renamed"))
        assert both.client.head_object(Bucket=faces.BUCKET, Key="renamed")["Metadata"] == {"colour": "red"}
        subprocess.run(["mv", both.on("mount", "renamed"), moved], check=True)
        head = both.client.head_object(Bucket=faces.SECOND, Key="file")
        assert (moved.read_bytes(), head["Metadata"]) == (b"x", {}) and head["ETag"].endswith('-1"')
        assert list(s3.listed(both.client, faces.BUCKET)) == []


def test_folders_are_exchanged_also_across_buckets(both, random):
    bodies = {key: random.bytes(1000) for key in ("one/inner/file", "two/file")}
    for key, body in bodies.items():
        both.client.put_object(Bucket=faces.BUCKET, Key=key, Body=body)
    with open(both.on("mount", "one/inner/file"), "r+b"):
        rename(both.on("mount", "one"), both.on("mount", "two"), EXCHANGE)
        assert s3.etag(both.client, faces.BUCKET, "two/inner/file").endswith("-1"), "it is still open for writing"
    rename(both.on("mount", "one"), both.on("mount", "there", faces.SECOND), NOREPLACE)
    both.on("mount", "more").mkdir()
    rename(both.on("mount", "more"), both.on("mount", "there", faces.SECOND), EXCHANGE)
    for face in ("mount", "disk"):
        assert both.on(face, "two/inner/file").read_bytes() == bodies["one/inner/file"]
        assert both.on(face, "more/file").read_bytes() == bodies["two/file"]
        assert os.listdir(both.on(face, "there", faces.SECOND)) == []
    assert etag(both, "more/file") == hashlib.md5(bodies["two/file"]).hexdigest()
    assert sorted(s3.listed(both.client, faces.BUCKET)) == ["more/file", "two/inner/file"]


def test_a_bucket_gets_another_name_with_all_that_is_in_it(plain, random):
    body, _ = sealed(plain, random)
    with refused(errno.EPERM):
        os.rename(plain.mount / faces.BUCKET, plain.mount / "No Bucket")
    with refused(errno.ENOTEMPTY):
        os.rename(plain.mount / faces.SECOND, plain.mount / faces.BUCKET)
    os.rename(plain.mount / faces.BUCKET, plain.mount / "bucket-new")
    assert [bucket["Name"] for bucket in plain.client.list_buckets()["Buckets"]] == ["bucket-new", faces.SECOND]
    assert s3.etag(plain.client, "bucket-new", "object") == hashlib.md5(body).hexdigest()
    s3.refused(404, "NoSuchBucket", plain.client.list_objects_v2, Bucket=faces.BUCKET)
    plain.client.put_object(Bucket="bucket-new", Key="more", Body=b"more")
    assert sorted(os.listdir(plain.mount / "bucket-new")) == ["more", "object"]


def test_the_room_that_is_left_is_that_of_the_disk_below(tmp_path):
    with trees.Mount(tmp_path / "tree", "tmpfs", 8), faces.Faces(tmp_path, "--mount-mode", "plain") as both:
        written(both.on("mount", "file"), b"x" * 100_000)
        for path in ("", faces.BUCKET, f"{faces.BUCKET}/file"):
            above, below = os.statvfs(both.mount / path), os.statvfs(both.disk / path)
            for name in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_namemax"):
                assert getattr(above, name) == getattr(below, name), (path, name)


def test_a_file_without_a_name_is_refused_in_a_way_that_programs_know(plain):
    with refused(errno.EOPNOTSUPP):
        os.open(plain.on("mount", ""), os.O_TMPFILE | os.O_RDWR)
    with tempfile.TemporaryFile(dir=plain.on("mount", "")) as file:
        file.write(b"1")
    assert os.listdir(plain.on("mount", "")) == []


def test_the_kernel_checks_who_may_and_takes_no_set_user_id_program_or_device_from_it(plain):
    with open("/proc/self/mounts") as table:
        options = next(line.split()[3].split(",") for line in table if line.split()[1] == str(plain.mount))
    assert {"nosuid", "nodev", "default_permissions"} <= set(options) and "allow_other" not in options


def test_syncs_reach_the_disk(both, tmp_path, random):
    """A daemon's end proves nothing about them: the page cache outlives it. So the kernel is asked what it was asked."""
    folder = both.on("mount", "folder")
    folder.mkdir()
    with open(folder / "file", "wb", buffering=0) as file, trace.Trace(both.daemon, tmp_path / "strace", calls="fsync,fdatasync") as traced:
        file.write(random.bytes(5000))
        os.fdatasync(file.fileno())
        os.fsync(file.fileno())
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(place)
        os.close(place)
    asked = [(event.name, name) for event in traced.events for name in ("folder/file", "folder") if f"/{name}>" in event.words]
    assert asked == [("fdatasync", "folder/file"), ("fsync", "folder/file"), ("fsync", "folder")]


# --- numbers that are used again ---


def test_numbers_are_listed_as_they_are_looked_at_also_in_filesystems_below(tmp_path):
    """More names than one answer holds: what comes after the first is listed without being looked up."""
    both = faces.Faces(tmp_path, "--mount-mode", "plain")
    with trees.Mount(both.on("disk", "one"), "tmpfs", 8), trees.Mount(both.on("disk", "two"), "tmpfs", 8):
        for folder in ("one", "two"):
            for number in range(500):
                both.on("disk", f"{folder}/{number:060}").touch()
        with both:
            listed = {}
            for folder in ("one", "two"):
                with os.scandir(both.on("mount", folder)) as entries:
                    listed |= {entry.path: entry.inode() for entry in entries}
            assert len(listed) == len(set(listed.values())) == 1000
            assert listed == {path: os.stat(path).st_ino for path in listed}


def test_a_number_that_is_used_again_is_the_new_file(both):
    seen, olds = 0, []
    for number in range(30):
        old = written(both.on("disk", f"old-{number}"), b"old")
        path = both.on("mount", f"old-{number}")
        held = os.open(path, os.O_PATH)  # the kernel holds the old inode
        inode = os.stat(path).st_ino
        os.unlink(old)
        new = written(both.on("disk", f"new-{number}"), b"the new one")
        os.mkfifo(both.on("disk", f"fifo-{number}"))
        assert both.on("mount", f"new-{number}").read_bytes() == b"the new one"
        assert stat.S_ISFIFO(os.stat(both.on("mount", f"fifo-{number}")).st_mode)
        seen += os.stat(new).st_ino == inode
        olds.append(held)
    for held in olds:  # only now: what is looked up after a refusal is held open for a while, and keeps its number
        with refused(errno.ESTALE, errno.ENOENT, errno.EIO, errno.ENOTDIR):
            os.open(f"/proc/self/fd/{held}", os.O_RDONLY)
        os.close(held)
    tables.say("inode numbers that were used again at once", [("seen", "of"), (seen, 30)])


@pytest.mark.parametrize("mode", ["plain", "passthrough"])
def test_a_file_that_is_being_verified_is_truncated_all_the_same(tmp_path, random, mode):
    """Who verifies a file holds a lease of it, and gives it back to who wants to write: EAGAIN is no answer to truncate(2)."""
    with faces.Faces(tmp_path, "--mount-mode", mode, "--seal", "off") as both:
        path = written(both.on("disk", "slow"), random.bytes(4_000_000))
        process = command.start("seal", both.disk, faces.BUCKET, "--rate", "16K")
        try:
            server.wait_until(lambda: command.reads(process.pid, path), "it reads the file", 60)
            os.truncate(both.on("mount", "slow"), 10)
        finally:
            process.terminate()
            process.communicate(timeout=60)
        assert path.stat().st_size == 10
