"""What users expect and nobody says, and what bad surroundings get: a test for each sentence."""

import ast
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import threading
import types

import botocore.exceptions
import pytest
from lib import data, filesystems, s3, server, tools, tree as trees, wire

SOMEBODY = 12345


@pytest.fixture
def place(served, client, bucket, tree):
    """A daemon, a client, a bucket and its directory."""
    return types.SimpleNamespace(daemon=served, client=client, bucket=bucket, tree=tree, directory=tree / bucket)


def names(place):
    return list(s3.listed(place.client, place.bucket))


# What a PUT keeps of the file that it replaces.

def test_put_over_a_file_keeps_its_owner_mode_acl_and_foreign_xattrs(place, random):
    path = place.directory / "file"
    path.write_bytes(b"made by hand")
    os.chmod(path, 0o2640)
    os.chown(path, SOMEBODY, SOMEBODY + 1)
    os.chmod(path, 0o640)
    foreign = {} if filesystems.lacks("xattrs") else {"user.DOSATTRIB": b"\x00\x01samba", "user.comment": "a comment, ü".encode()}
    for name, value in foreign.items():
        os.setxattr(path, name, value)
    tools.need("setfacl")
    if not filesystems.lacks("acls"):
        subprocess.run(["setfacl", "-m", f"u:{SOMEBODY + 2}:rw,g:{SOMEBODY + 3}:r", str(path)], check=True)
    acl = subprocess.run(["getfacl", "-n", "--omit-header", str(path)], check=True, capture_output=True).stdout
    for key_of_body in range(2):  # the second replaces an object that S3 wrote
        body = random.bytes(100 + key_of_body)
        place.client.put_object(Bucket=place.bucket, Key="file", Body=body)
        now = path.stat()
        assert path.read_bytes() == body
        assert (now.st_uid, now.st_gid) == (SOMEBODY, SOMEBODY + 1)
        assert subprocess.run(["getfacl", "-n", "--omit-header", str(path)], check=True, capture_output=True).stdout == acl
        assert {name: os.getxattr(path, name) for name in foreign} == foreign


@pytest.mark.parametrize("way", ["multipart", "copy"])
def test_complete_and_copy_over_a_file_keep_them_too(place, random, way):
    path = place.directory / "file"
    path.write_bytes(b"made by hand")
    os.chown(path, SOMEBODY, SOMEBODY)
    os.chmod(path, 0o604)
    foreign = {} if filesystems.lacks("xattrs") else {"user.comment": b"kept"}
    for name, value in foreign.items():
        os.setxattr(path, name, value)
    body = random.bytes(1000)
    if way == "copy":
        place.client.put_object(Bucket=place.bucket, Key="source", Body=body)
        place.client.copy_object(Bucket=place.bucket, Key="file", CopySource={"Bucket": place.bucket, "Key": "source"})
    else:
        upload = place.client.create_multipart_upload(Bucket=place.bucket, Key="file")["UploadId"]
        part = place.client.upload_part(Bucket=place.bucket, Key="file", UploadId=upload, PartNumber=1, Body=body)
        place.client.complete_multipart_upload(Bucket=place.bucket, Key="file", UploadId=upload,
                                               MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    now = path.stat()
    assert path.read_bytes() == body
    assert (now.st_uid, stat.S_IMODE(now.st_mode)) == (SOMEBODY, 0o604)
    assert {name: os.getxattr(path, name) for name in foreign} == foreign


def test_a_new_file_takes_the_umask_and_the_folder_s_default_acl(place):
    tools.need("setfacl")
    if filesystems.lacks("acls"):
        refused = subprocess.run(["setfacl", "-d", "-m", f"u:{SOMEBODY}:rwx", str(place.directory)], capture_output=True, text=True)
        assert refused.returncode != 0 and "not supported" in refused.stderr, "there are none, and the umask alone counts"
        place.client.put_object(Bucket=place.bucket, Key="inherits", Body=b"x")
        umask = os.umask(0o022)
        os.umask(umask)
        assert stat.S_IMODE((place.directory / "inherits").stat().st_mode) == 0o666 & ~umask
        return
    subprocess.run(["setfacl", "-d", "-m", f"u:{SOMEBODY}:rwx", str(place.directory)], check=True)
    place.client.put_object(Bucket=place.bucket, Key="inherits", Body=b"x")
    acl = subprocess.run(["getfacl", "-n", str(place.directory / "inherits")], check=True, capture_output=True, text=True).stdout
    assert f"user:{SOMEBODY}:rw" in acl


def test_put_and_delete_on_a_symlink_act_on_the_link(place, random):
    (place.directory / "target").write_bytes(b"the target")
    (place.directory / "link").symlink_to("target")
    assert s3.body(place.client, place.bucket, "link") == b"the target"
    assert names(place) == ["link", "target"]
    body = random.bytes(50)
    place.client.put_object(Bucket=place.bucket, Key="link", Body=body)
    assert not (place.directory / "link").is_symlink()
    assert (place.directory / "link").read_bytes() == body
    assert (place.directory / "target").read_bytes() == b"the target"
    (place.directory / "second").symlink_to("target")
    place.client.delete_object(Bucket=place.bucket, Key="second")
    assert not os.path.lexists(place.directory / "second")
    assert (place.directory / "target").read_bytes() == b"the target"


def test_put_over_a_hard_linked_file_leaves_the_other_name_alone(place, random):
    (place.directory / "one").write_bytes(b"both names")
    os.link(place.directory / "one", place.directory / "two")
    place.client.put_object(Bucket=place.bucket, Key="one", Body=random.bytes(10))
    assert (place.directory / "two").read_bytes() == b"both names"
    assert s3.body(place.client, place.bucket, "two") == b"both names"


@pytest.mark.parametrize("link", ["OUTSIDE", "../../..", "OUTSIDE/passwd", "loop", "../other-bucket", "gone"])
def test_symlinks_that_lead_out_loop_or_dangle_are_never_followed(place, tmp_path, link):
    outside = tmp_path / "outside"  # not /etc: a daemon that fails this test would write there
    outside.mkdir()
    (outside / "passwd").write_bytes(b"not for S3")
    (place.tree / "other-bucket").mkdir()
    (place.tree / "other-bucket" / "passwd").write_bytes(b"another bucket's")
    (place.directory / "loop").symlink_to(link.replace("OUTSIDE", str(outside)))
    for key in ("loop", "loop/passwd", "loop/x/y"):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            place.client.get_object(Bucket=place.bucket, Key=key)
        assert 400 <= caught.value.response["ResponseMetadata"]["HTTPStatusCode"] < 500, key
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            place.client.put_object(Bucket=place.bucket, Key=f"loop/written{len(key)}", Body=b"x")
        assert 400 <= caught.value.response["ResponseMetadata"]["HTTPStatusCode"] < 500, key
    assert not list(tmp_path.rglob("written*"))
    assert all(not name.startswith("loop/") for name in names(place))


def test_a_link_to_a_folder_inside_the_bucket_is_read_and_not_listed(place):
    (place.directory / "real").mkdir()
    (place.directory / "real" / "f").write_bytes(b"inside")
    (place.directory / "via").symlink_to("real")
    assert s3.body(place.client, place.bucket, "via/f") == b"inside"
    assert names(place) == ["real/f"]
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        place.client.put_object(Bucket=place.bucket, Key="via/new", Body=b"x")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 409


# Reading writes nothing.

def grow(root):
    """A tree with all kinds of things in it."""
    bucket = root / "old-tree"
    (bucket / "dir" / "deep").mkdir(parents=True)
    (bucket / "empty-dir").mkdir()
    for name in ("a", "dir/b", "dir/deep/c.txt", ".hidden"):
        (bucket / name).write_bytes(name.encode() * 100)
        os.utime(bucket / name, ns=(10**18, 10**18 + 5))  # atime not after mtime: relatime would move it
    (bucket / "link").symlink_to("a")
    if not filesystems.lacks("xattrs"):
        os.setxattr(bucket / "a", "user.comment", b"foreign")
    trees.quieten(root)
    return bucket


def read_everything(client):
    """Every reading operation there is."""
    client.list_buckets()
    client.head_bucket(Bucket="old-tree")
    for call in (client.get_bucket_location, client.get_bucket_versioning, client.get_bucket_acl, client.list_multipart_uploads,
                 client.list_object_versions, client.list_objects):
        call(Bucket="old-tree")
    for key in s3.listed(client, "old-tree", PaginationConfig={"PageSize": 2}):
        client.head_object(Bucket="old-tree", Key=key, ChecksumMode="ENABLED")
        s3.body(client, "old-tree", key)
        s3.body(client, "old-tree", key, Range="bytes=0-1")
        client.get_object_tagging(Bucket="old-tree", Key=key)
        client.get_object_attributes(Bucket="old-tree", Key=key, ObjectAttributes=["ETag", "ObjectSize", "Checksum"])
    for key in ("none", "a/b", "dir/", "dir", "x//y"):
        with pytest.raises(botocore.exceptions.ClientError):
            client.head_object(Bucket="old-tree", Key=key)


@pytest.mark.parametrize("flags", [[], ["--read-only"]], ids=["default", "read-only"])
def test_starting_get_head_and_list_write_nothing(daemon, tree, flags):
    grow(tree)
    before = trees.picture(tree)
    one = daemon(tree, *flags)
    client = s3.client(one.url)
    read_everything(client)
    assert len(s3.listed(client, "old-tree")) == 5
    one.stop()
    assert trees.picture(tree) == before


def test_read_only_refuses_every_write_and_writes_nothing(daemon, tree):
    grow(tree)
    before = trees.picture(tree)
    client = s3.client(daemon(tree, "--read-only").url)
    name = {"Bucket": "old-tree", "Key": "a"}
    for call, arguments in (
        (client.put_object, {**name, "Body": b"x"}), (client.put_object, {"Bucket": "old-tree", "Key": "new/key", "Body": b"x"}),
        (client.delete_object, name), (client.create_multipart_upload, name), (client.create_bucket, {"Bucket": "new-bucket"}),
        (client.delete_bucket, {"Bucket": "old-tree"}), (client.put_object_tagging, {**name, "Tagging": {"TagSet": [{"Key": "a", "Value": "b"}]}}),
        (client.copy_object, {"Bucket": "old-tree", "Key": "copy", "CopySource": {"Bucket": "old-tree", "Key": "a"}}),
    ):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            call(**arguments)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 405), call
    answer = client.delete_objects(Bucket="old-tree", Delete={"Objects": [{"Key": "a"}]})
    assert [error["Code"] for error in answer["Errors"]] == ["AccessDenied"]
    assert trees.picture(tree) == before


def test_an_unplugged_root_answers_503_and_nothing_is_made_in_the_bare_mount_point(daemon, tmp_path):
    folder = tmp_path / "disk"
    with trees.Mount(folder, "tmpfs", 16) as mount:
        (folder / "bucket-one").mkdir()
        (folder / "bucket-one" / "f").write_bytes(b"on the disk")
        client = s3.client(daemon(folder).url)
        assert list(s3.listed(client, "bucket-one")) == ["f"]
        mount.detach()
        for call, arguments in ((client.list_buckets, {}), (client.list_objects_v2, {"Bucket": "bucket-one"}),
                                (client.get_object, {"Bucket": "bucket-one", "Key": "f"}),
                                (client.put_object, {"Bucket": "bucket-one", "Key": "g", "Body": b"x"}),
                                (client.create_bucket, {"Bucket": "bucket-two"})):
            with pytest.raises(botocore.exceptions.ClientError) as caught:
                call(**arguments)
            assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503, call
        assert os.listdir(folder) == []


# Odd things in a tree.

def test_fifos_sockets_and_devices_are_no_objects_and_nothing_hangs(place):
    os.mkfifo(place.directory / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.directory / "socket"))
    if os.geteuid() == 0:
        os.mknod(place.directory / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # reads zeros without end
    (place.directory / "file").write_bytes(b"x")
    (place.directory / "link-to-fifo").symlink_to("fifo")
    assert [name for name in names(place) if name != "link-to-fifo"] == ["file"]
    for key in ("fifo", "socket", "device", "link-to-fifo", "fifo/below"):
        for call in (place.client.get_object, place.client.head_object):
            with pytest.raises(botocore.exceptions.ClientError) as caught:
                call(Bucket=place.bucket, Key=key)
            assert 400 <= caught.value.response["ResponseMetadata"]["HTTPStatusCode"] < 500, key
    for key in ("fifo", "socket", "device"):
        try:
            place.client.put_object(Bucket=place.bucket, Key=key, Body=b"body")
            assert s3.body(place.client, place.bucket, key) == b"body"
        except botocore.exceptions.ClientError as refused:
            assert 400 <= refused.response["ResponseMetadata"]["HTTPStatusCode"] < 500, key


def test_mtimes_before_1970_and_far_ahead_are_served(place):
    for number, seconds in enumerate((-1, -10**9, 2**31 + 5, 2**33)):
        path = place.directory / f"t{number}"
        path.write_bytes(b"x")
        os.utime(path, (seconds, seconds))
    listed = s3.listed(place.client, place.bucket)
    assert sorted(listed) == ["t0", "t1", "t2", "t3"]
    for number, seconds in enumerate((-1, -10**9, 2**31 + 5, 2**33)):
        assert s3.body(place.client, place.bucket, f"t{number}") == b"x"
        assert place.client.head_object(Bucket=place.bucket, Key=f"t{number}")["LastModified"] == listed[f"t{number}"]["LastModified"]


def test_nas_litter_is_hidden_by_the_hide_list(daemon, tree):
    config = tree.parent / "config.toml"
    litter = ["@eaDir", "#recycle", ".DS_Store", "Thumbs.db"]
    config.write_text(f"hide = {litter}\n".replace("'", '"'))
    bucket = tree / "nas"
    for folder in ("@eaDir", "#recycle", "photos/@eaDir"):
        (bucket / folder).mkdir(parents=True)
        (bucket / folder / "x").write_bytes(b"litter")
    for name in (".DS_Store", "photos/Thumbs.db", "photos/p.jpg"):
        (bucket / name).write_bytes(b"x")
    client = s3.client(daemon(tree, "--config", config).url)
    assert list(s3.listed(client, "nas")) == ["photos/p.jpg"]
    for key in ("@eaDir/x", ".DS_Store", "photos/Thumbs.db", "photos/@eaDir/x"):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            client.get_object(Bucket="nas", Key=key)
        assert 400 <= caught.value.response["ResponseMetadata"]["HTTPStatusCode"] < 500
    client.delete_object(Bucket="nas", Key="photos/p.jpg")
    assert "a hidden name" in str(s3.refused(409, "BucketNotEmpty", client.delete_bucket, Bucket="nas")), "nobody removes what he cannot see"
    assert (bucket / "@eaDir" / "x").exists() and (bucket / "photos" / "Thumbs.db").exists()


def test_names_that_are_not_utf8_never_break_a_listing(place):
    raw = os.fsencode(place.directory)
    for name in (b"good", b"bad-\xff\xfe", b"dir-\xe4/inner"):
        path = os.path.join(raw, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        pathlib.Path(os.fsdecode(path)).write_bytes(name)
    found = names(place)
    assert len(found) == 3 and "good" in found
    assert {s3.body(place.client, place.bucket, key) for key in found} == {b"good", b"bad-\xff\xfe", b"dir-\xe4/inner"}


def test_nfc_beside_nfd_and_upper_beside_lower_are_each_their_own_object(place):
    keys = ["\u00e9", "e\u0301", "A", "a", "\u212b", "\u00c5"]
    for key in keys:
        place.client.put_object(Bucket=place.bucket, Key=key, Body=key.encode())
    assert names(place) == sorted(keys, key=str.encode)
    assert [s3.body(place.client, place.bucket, key).decode() for key in keys] == keys


def test_directories_with_other_names_are_served_or_skipped_never_an_error(daemon, tree):
    for name in ("My_Data", "UPPER", "x" * 200, ".hidden", "with space", "ümlaut", "a"):
        (tree / name).mkdir()
        (tree / name / "f").write_bytes(b"x")
    client = s3.client(daemon(tree).url)
    served = [entry["Name"] for entry in client.list_buckets()["Buckets"]]
    assert served == sorted(["My_Data", "UPPER", "x" * 200, "a"], key=str.encode)
    for name in ("My_Data", "UPPER"):
        assert s3.body(client, name, "f") == b"x"


# An unprivileged daemon.

@pytest.fixture
def unprivileged(daemon):
    """A daemon that runs as nobody, on a tree that nobody owns; gives (start, root)."""
    if os.geteuid() != 0:
        pytest.skip("giving up privileges needs root")
    tools.need("setpriv")
    with trees.Public() as folder:
        binary = shutil.copy(server.BINARY, os.path.join(folder, "twintree"))
        root = pathlib.Path(folder) / "tree"
        home = pathlib.Path(folder) / "state"
        root.mkdir()
        home.mkdir()
        for path in (root, home):
            os.chown(path, 65534, 65534)

        def start(*flags):
            one = server.Daemon(root, pathlib.Path(folder) / "daemon", "--state-dir", home, *flags,
                                wrapper=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"],
                                beside=False)  # /dev/fuse is root's
            one.binary = binary
            started.append(one)
            return one.start()

        started = []
        yield start, root
        for one in started:
            one.stop()


def test_permission_denied_is_403_and_never_a_500(unprivileged):
    start, root = unprivileged
    bucket = root / "bucket-one"
    (bucket / "closed").mkdir(parents=True)
    for path in (bucket, root):
        os.chown(path, 65534, 65534)
    (bucket / "zero").write_bytes(b"mode 0000")
    os.chmod(bucket / "zero", 0)
    (bucket / "closed" / "x").write_bytes(b"x")
    os.chmod(bucket / "closed", 0)
    (bucket / "open").write_bytes(b"open")
    client = s3.client(start().url)
    listed = list(s3.listed(client, "bucket-one"))
    assert "open" in listed and "closed/x" not in listed
    assert s3.body(client, "bucket-one", "open") == b"open"
    s3.refused(403, "AccessDenied", client.get_object, Bucket="bucket-one", Key="zero")
    s3.refused(403, "AccessDenied", client.get_object, Bucket="bucket-one", Key="closed/x")
    s3.refused(403, "AccessDenied", client.put_object, Bucket="bucket-one", Key="closed/new", Body=b"x")
    client.put_object(Bucket="bucket-one", Key="mine", Body=b"written by nobody")
    assert (bucket / "mine").stat().st_uid == 65534
    os.chown(bucket, 0, 0)
    os.chmod(bucket, 0o755)
    answer = s3.refused(403, "AccessDenied", client.put_object, Bucket="bucket-one", Key="new", Body=b"x")
    assert "permission" in answer["Error"]["Message"].lower(), "the message names the cause"


# Full, read-only.

@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_disk_is_507_and_delete_still_works(daemon, tmp_path, random, kind):
    folder = tmp_path / "disk"
    with trees.Mount(folder, kind, 12) as mount:
        one = daemon(folder)
        client = s3.client(one.url)
        client.create_bucket(Bucket="bucket-one")
        kept = random.bytes(3 * data.MIB)
        client.put_object(Bucket="bucket-one", Key="kept", Body=kept)
        answer = s3.refused(507, "InsufficientStorage", client.put_object, Bucket="bucket-one", Key="big", Body=random.bytes(20 * data.MIB))
        assert "space" in answer["Error"]["Message"].lower(), "the message names the cause"
        s3.refused(507, "InsufficientStorage", client.put_object, Bucket="bucket-one", Key="kept", Body=random.bytes(20 * data.MIB))
        assert s3.body(client, "bucket-one", "kept") == kept
        with open(folder / "bucket-one" / "filler", "wb") as filler:  # now to the last byte
            try:
                while True:
                    filler.write(random.bytes(64 * 1024))
                    filler.flush()
            except OSError:
                pass
            try:
                filler.close()
            except OSError:
                pass
        s3.refused(507, "InsufficientStorage", client.put_object, Bucket="bucket-one", Key="small", Body=random.bytes(100_000))
        assert s3.body(client, "bucket-one", "kept") == kept
        assert sorted(s3.listed(client, "bucket-one")) == ["filler", "kept"]
        client.delete_object(Bucket="bucket-one", Key="filler")
        client.put_object(Bucket="bucket-one", Key="small", Body=b"there is room again")
        assert s3.body(client, "bucket-one", "small") == b"there is room again"
        one.stop()
        mount.detach()


def test_a_read_only_file_system_is_read_and_refuses_writes(daemon, tmp_path):
    folder = tmp_path / "disk"
    with trees.Mount(folder, "ext4", 12) as mount:
        (folder / "bucket-one").mkdir()
        (folder / "bucket-one" / "f").write_bytes(b"x")
        mount.remount("ro")
        one = daemon(folder)
        client = s3.client(one.url)
        assert s3.body(client, "bucket-one", "f") == b"x"
        answer = s3.refused(403, "AccessDenied", client.put_object, Bucket="bucket-one", Key="f", Body=b"y")
        assert "read-only" in answer["Error"]["Message"].lower(), "the message names the cause"
        s3.refused(403, "AccessDenied", client.delete_object, Bucket="bucket-one", Key="f")
        one.stop()


# Where it listens, and how it leaves.

def test_it_listens_on_ipv4_ipv6_and_a_unix_socket_at_once(daemon, tree, tmp_path):
    (tree / "bucket-one").mkdir()
    (tree / "bucket-one" / "f").write_bytes(b"the same everywhere")
    path = tmp_path / "s3.sock"
    one = daemon(tree, listen=("127.0.0.1:0", "[::1]:0", f"unix:{path}"))
    assert len(one.urls) == 3
    assert one.urls[1].startswith("http://[::1]:")
    for url in one.urls:
        with wire.Connection(one, url=url) as connection:
            assert connection.ask("GET", "/bucket-one/f").body == b"the same everywhere"
    assert s3.body(s3.client(one.urls[1]), "bucket-one", "f") == b"the same everywhere"
    one.stop()
    assert daemon(tree, listen=(f"unix:{path}",)).urls == [f"unix:{path}"], "a socket file that was left is no obstacle"


def test_sigterm_finishes_what_is_in_flight_and_takes_nothing_new(place, random):
    body = random.bytes(200_000)
    connection = wire.Connection(place.daemon)
    every = wire.Signer().headers("PUT", f"/{place.bucket}/slow", connection.host, {}, wire.UNSIGNED)
    every |= {"content-length": len(body), "expect": "100-continue"}
    connection.send("PUT", f"/{place.bucket}/slow", every)
    assert connection.file.readline().startswith(b"HTTP/1.1 100")
    connection.file.readline()
    connection.socket.sendall(body[:100_000])
    place.daemon.process.send_signal(signal.SIGTERM)
    server.wait_until(lambda: refuses(place.daemon.port), "the port is closed")
    connection.socket.sendall(body[100_000:])
    answer = connection.answer("PUT")
    assert answer.status == 200, answer
    assert (place.directory / "slow").read_bytes() == body
    assert place.daemon.process.wait(20) == 0


def refuses(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_deadline_ends_a_drain_that_nobody_finishes(daemon, tree):
    (tree / "bucket-one").mkdir()
    one = daemon(tree, "--drain-timeout", "1s")
    connection = wire.Connection(one)
    every = wire.Signer().headers("PUT", "/bucket-one/never", connection.host, {}, wire.UNSIGNED)
    connection.send("PUT", "/bucket-one/never", every | {"content-length": 1000}, b"only the beginning")
    one.stop()
    assert one.process.returncode == 0
    assert not (tree / "bucket-one" / "never").exists()


# Keys and settings.

def test_the_first_start_makes_a_key_and_prints_how_to_use_it(daemon, tree):
    one = daemon(tree, keys=False)
    text = server.wait_until(lambda: "rclone" in "\n".join(one.output) and "\n".join(one.output), "the snippets")
    access = text.split("access key", 1)[1].split()[0]
    secret = text.split("secret key", 1)[1].split()[0]
    for word in (one.url, "boto3", "aws --endpoint-url", "rclone"):
        assert word in text
    kept = one.state / "credentials"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert access in kept.read_text()
    client = s3.client(one.url, access_key=access, secret_key=secret)
    client.create_bucket(Bucket="bucket-one")
    one.restart()
    assert secret not in "\n".join(one.output), "shown once"
    assert s3.client(one.url, access_key=access, secret_key=secret).list_buckets()["Buckets"][0]["Name"] == "bucket-one"
    snippet = text[text.index("boto3.client("):].split(")", 1)[0] + ")"
    arguments = {word.arg: ast.literal_eval(word.value) for word in ast.parse(snippet).body[0].value.keywords}
    assert arguments["aws_secret_access_key"] == secret, "the snippet is ready to be pasted"


def test_the_state_directory_must_not_be_served(tree):
    variables = {"PATH": os.environ["PATH"]}
    done = subprocess.run([server.BINARY, "serve", str(tree), "--listen", "127.0.0.1:0", "--state-dir", str(tree / "state")],
                          env=variables, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0
    assert "state" in done.stderr
    assert os.listdir(tree) == []


def test_flag_over_environment_over_file(daemon, tree, tmp_path):
    """Three sources name three keys and three domains; what is nearest to the person who types wins."""
    (tree / "bucket-one").mkdir()
    config = tmp_path / "config.toml"
    config.write_text('access-key = "FROMFILE"\nsecret-key = "file-secret"\nregion = "from-file"\nread-only = true\n')

    def region(*flags, **environment):
        one = daemon(tree, "--config", config, *flags, environment=environment)
        head = s3.client(one.url).head_bucket(Bucket="bucket-one")
        return head["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"]

    assert region() == "from-file"
    assert region(TWINTREE_REGION="from-environment") == "from-environment"
    assert region("--region", "from-flag", TWINTREE_REGION="from-environment") == "from-flag"
    one = daemon(tree, "--config", config, keys=False)
    s3.client(one.url, access_key="FROMFILE", secret_key="file-secret").list_buckets()
    one = daemon(tree, "--config", config, "--read-only=false")
    s3.client(one.url).put_object(Bucket="bucket-one", Key="writable", Body=b"the flag wins, and the environment's key")


def test_keys_from_files_that_the_environment_names(daemon, tree, tmp_path):
    (tmp_path / "access").write_text("FROMSECRETSTORE\n")
    (tmp_path / "secret").write_text("a-long-secret-from-a-file\n")
    one = daemon(tree, keys=False, environment={"TWINTREE_ACCESS_KEY_FILE": str(tmp_path / "access"),
                                                "TWINTREE_SECRET_KEY_FILE": str(tmp_path / "secret")})
    s3.client(one.url, access_key="FROMSECRETSTORE", secret_key="a-long-secret-from-a-file").list_buckets()
    assert "a-long-secret-from-a-file" not in one.words(), "no secret in the log"


def test_a_wrong_setting_ends_with_a_message_that_names_it(tree, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("no-such-setting = 1\n")
    for words, named in ((["--durability", "maybe"], "durability"), (["--config", str(config)], "no-such-setting"),
                         (["--tls-cert", "x"], "tls-key"), (["--listen", "nowhere"], "nowhere")):
        done = subprocess.run([server.BINARY, "serve", str(tree), *words], capture_output=True, text=True, timeout=20,
                              env={"PATH": os.environ["PATH"], "TWINTREE_ACCESS_KEY": "A" * 8, "TWINTREE_SECRET_KEY": "b" * 12})
        assert done.returncode != 0 and named in done.stderr, done


def test_posix_only_refuses_keys_that_no_path_can_hold(daemon, tree):
    client = s3.client(daemon(tree, "--keys", "posix-only").url)
    client.create_bucket(Bucket="bucket-one")
    client.put_object(Bucket="bucket-one", Key="a", Body=b"a file")
    for key in ("a/b", "x//y", "a/../b", "n" * 256):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            client.put_object(Bucket="bucket-one", Key=key, Body=b"x")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 409), key
    answer = s3.refused(409, caught_code(client, "a/b"), client.put_object, Bucket="bucket-one", Key="a/b", Body=b"x")
    assert '"a"' in answer["Error"]["Message"] or "'a'" in answer["Error"]["Message"], "the message names the file in the way"


def caught_code(client, key):
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        client.put_object(Bucket="bucket-one", Key=key, Body=b"x")
    return caught.value.response["Error"]["Code"]


# Two at once.

def test_two_gateways_on_one_tree_swap_without_losing_one(daemon, tree, tmp_path):
    """Compare-and-swap across processes: of all increments, none is lost."""
    urls = [daemon(tree).url, daemon(tree).url]
    clients = [s3.client(url) for url in urls]
    clients[0].create_bucket(Bucket="bucket-one")
    clients[0].put_object(Bucket="bucket-one", Key="counter", Body=b"0")
    done = [0, 0]

    def count(which):
        client = s3.client(urls[which])
        for _ in range(400):
            got = client.get_object(Bucket="bucket-one", Key="counter")
            value = int(got["Body"].read())
            try:
                client.put_object(Bucket="bucket-one", Key="counter", Body=str(value + 1).encode(), IfMatch=got["ETag"])
                done[which] += 1
            except botocore.exceptions.ClientError as lost:
                assert lost.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412)
            if done[which] == 25:
                return

    workers = [threading.Thread(target=count, args=(which,)) for which in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
    assert int(s3.body(clients[1], "bucket-one", "counter")) == sum(done)
    assert min(done) > 0


def test_of_many_creates_with_if_none_match_exactly_one_wins(place):
    wins = []

    def create(number):
        try:
            s3.client(place.daemon.url).put_object(Bucket=place.bucket, Key="once", Body=str(number).encode(), IfNoneMatch="*")
            wins.append(number)
        except botocore.exceptions.ClientError as lost:
            assert lost.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412)

    workers = [threading.Thread(target=create, args=(number,)) for number in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(wins) == 1
    assert s3.body(place.client, place.bucket, "once") == str(wins[0]).encode()
