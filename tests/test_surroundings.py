"""Disks that fill, fail, leave and come: each answer names its cause, nothing is lost, and the daemon lives on."""

import hashlib
import os
import pathlib
import subprocess
import types

import botocore.exceptions
import pytest
from lib import data, filesystems, s3, tree as trees


def refusal(call, **named):
    """The status, code and message of a call that must fail."""
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call(**named)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"].get("Message", "").lower()


def one_part(client, key, body):
    """An upload with one part: its id and the part's ETag."""
    upload = client.create_multipart_upload(Bucket="bucket-one", Key=key)["UploadId"]
    return upload, client.upload_part(Bucket="bucket-one", Key=key, UploadId=upload, PartNumber=1, Body=body)["ETag"]


# Full.

@pytest.mark.parametrize("lack", ["blocks", "inodes"])
@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_on_a_full_disk_writes_are_507_and_whatever_frees_room_works(daemon, tmp_path, random, kind, lack):
    """Also in a bucket where nothing was ever written, so that not even a lock file is there yet."""
    folder = tmp_path / "disk"
    with trees.Mount(folder, kind, 24, inodes=80 if lack == "inodes" else None):
        (folder / "untouched" / "dir").mkdir(parents=True)
        for name in ("a", "b", "c", "dir/d"):
            (folder / "untouched" / name).write_bytes(random.bytes(20_000))
        one = daemon(folder)
        client = s3.client(one.url)
        client.create_bucket(Bucket="bucket-one")
        kept = random.bytes(data.MIB)
        client.put_object(Bucket="bucket-one", Key="kept", Body=kept)
        upload, part = one_part(client, "whole", random.bytes(data.MIB))
        abandoned, _ = one_part(client, "abandoned", random.bytes(data.MIB))
        fill(folder, random, lack)
        for call, arguments in (
            (client.put_object, {"Key": "new", "Body": random.bytes(100_000)}),
            (client.put_object, {"Key": "kept", "Body": random.bytes(100_000)}),
            (client.copy_object, {"Key": "copy", "CopySource": "bucket-one/kept"}),
            (client.create_multipart_upload, {"Key": "new"}),
        ):
            status, code, message = refusal(call, Bucket="bucket-one", **arguments)
            assert (status, code) == (507, "InsufficientStorage") and "no space left" in message, (call, arguments, message)
        assert refusal(client.put_object, Bucket="untouched", Key="a", Body=random.bytes(100_000))[:2] == (507, "InsufficientStorage")
        assert s3.body(client, "bucket-one", "kept") == kept
        assert list(s3.listed(client, "bucket-one")) == ["kept"]
        client.abort_multipart_upload(Bucket="bucket-one", Key="abandoned", UploadId=abandoned)
        etag = client.head_object(Bucket="untouched", Key="b")["ETag"]
        client.delete_object(Bucket="untouched", Key="a")
        client.delete_object(Bucket="untouched", Key="b", IfMatch=etag)
        assert "Errors" not in client.delete_objects(Bucket="untouched", Delete={"Objects": [{"Key": "c"}, {"Key": "dir/d"}]})
        client.delete_object(Bucket="bucket-one", Key="kept")
        assert not s3.listed(client, "untouched") and not s3.listed(client, "bucket-one")
        done = client.complete_multipart_upload(Bucket="bucket-one", Key="whole", UploadId=upload,
                                                MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]})
        assert done["ETag"].endswith('-1"')
        client.put_object(Bucket="bucket-one", Key="again", Body=b"there is room")
        one.stop()


def fill(folder, random, lack):
    """Takes the last block or the last inode."""
    piece = random.bytes(64 * 1024)
    for number in range(100_000):
        try:
            if lack == "inodes":
                (folder / f"filler-{number}").write_bytes(b"")
            else:
                with open(folder / "filler", "ab", buffering=0) as filler:
                    filler.write(piece if number < 5000 else piece[:512])
        except OSError:
            if lack == "inodes" or len(piece) <= 512:
                return
            piece = piece[:512]
    raise AssertionError("the disk does not fill")


# Read-only all of a sudden.

def test_a_disk_that_turns_read_only_under_us_is_read_on_and_writes_say_why(daemon, tmp_path, random):
    """An error on the disk does this (errors=remount-ro), open files or not."""
    folder = tmp_path / "disk"
    with trees.Mount(folder, "ext4", 24, options="errors=remount-ro") as mount:
        client = s3.client(daemon(folder).url)
        client.create_bucket(Bucket="bucket-one")
        body = random.bytes(1000)
        client.put_object(Bucket="bucket-one", Key="k", Body=body)
        upload, _ = one_part(client, "mp", body)
        (folder / "untouched").mkdir()
        (folder / "untouched" / "f").write_bytes(b"1")
        mount.fail()
        for call, arguments in (
            (client.put_object, {"Key": "k", "Body": b"x"}), (client.put_object, {"Key": "new/key", "Body": random.bytes(data.MIB)}),
            (client.put_object, {"Key": "an//nex", "Body": b"x"}), (client.delete_object, {"Key": "k"}),
            (client.put_object_tagging, {"Key": "k", "Tagging": {"TagSet": []}}), (client.create_multipart_upload, {"Key": "z"}),
            (client.copy_object, {"Key": "z", "CopySource": "bucket-one/k"}),
            (client.upload_part, {"Key": "mp", "UploadId": upload, "PartNumber": 2, "Body": b"1"}),
            (client.abort_multipart_upload, {"Key": "mp", "UploadId": upload}),
        ):
            status, code, message = refusal(call, Bucket="bucket-one", **arguments)
            assert (status, code) == (403, "AccessDenied") and "read-only" in message, (call, message)
        assert refusal(client.put_object, Bucket="untouched", Key="f", Body=b"x")[:2] == (403, "AccessDenied")
        assert refusal(client.create_bucket, Bucket="bucket-two")[:2] == (403, "AccessDenied")
        assert s3.body(client, "bucket-one", "k") == body
        assert s3.body(client, "untouched", "f") == b"1"
        assert list(s3.listed(client, "bucket-one")) == ["k"]


# Disks that come and go.

@pytest.fixture
def place(daemon, tree):
    """A daemon, a client, a bucket and its directory."""
    one = daemon(tree)
    client = s3.client(one.url)
    client.create_bucket(Bucket="bucket-one")
    return types.SimpleNamespace(daemon=one, client=client, tree=tree, directory=tree / "bucket-one")


def test_a_bucket_whose_own_disk_left_is_503_and_its_mount_point_stays_bare(place):
    (place.tree / "own-disk").mkdir()
    assert list(s3.listed(place.client, "own-disk")) == [], "the bare directory has been asked for, too"
    with trees.Mount(place.tree / "own-disk", "tmpfs", 8) as mount:
        place.client.put_object(Bucket="own-disk", Key="a/b", Body=b"1")
        assert list(s3.listed(place.client, "own-disk")) == ["a/b"]
        mount.detach()
        for call, arguments in ((place.client.list_objects_v2, {}), (place.client.get_object, {"Key": "a/b"}),
                                (place.client.put_object, {"Key": "c", "Body": b""}), (place.client.delete_object, {"Key": "a/b"}),
                                (place.client.delete_bucket, {})):
            assert refusal(call, Bucket="own-disk", **arguments)[:2] == (503, "ServiceUnavailable"), call
        # Who mirrors all buckets must not take it for deleted.
        assert "own-disk" in [b["Name"] for b in place.client.list_buckets()["Buckets"]]
        assert os.listdir(place.tree / "own-disk") == []
        assert place.client.list_buckets()["Buckets"][0]["Name"] == "bucket-one", "the others are served on"


def test_a_mounted_filesystem_is_never_removed_with_its_bucket(place):
    inner = place.directory / "inner"
    inner.mkdir()
    with trees.Mount(inner, "tmpfs", 8):
        status, code, message = refusal(place.client.delete_bucket, Bucket="bucket-one")
        assert (status, code) == (409, "BucketNotEmpty") and "inner" in message and "mounted" in message
        place.client.put_object(Bucket="bucket-one", Key="inner/x", Body=b"across")
        place.client.copy_object(Bucket="bucket-one", Key="copy", CopySource="bucket-one/inner/x")
        place.client.put_object(Bucket="bucket-one", Key="inner/x", Body=b"over")
        assert (inner / "x").read_bytes() == b"over" and s3.body(place.client, "bucket-one", "copy") == b"across"
        assert list(s3.listed(place.client, "bucket-one")) == ["copy", "inner/x"]
    place.client.delete_object(Bucket="bucket-one", Key="copy")
    place.client.delete_bucket(Bucket="bucket-one")
    (place.tree / "own-disk").mkdir()
    with trees.Mount(place.tree / "own-disk", "tmpfs", 8):
        place.client.put_bucket_tagging(Bucket="own-disk", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
        status, code, message = refusal(place.client.delete_bucket, Bucket="own-disk")
        assert (status, code) == (409, "BucketNotEmpty") and "mounted" in message
        assert place.client.get_bucket_tagging(Bucket="own-disk")["TagSet"], "nothing of it is lost"


def test_a_bucket_renamed_removed_or_replaced_directly_shows_at_once(place):
    client = place.client
    client.put_object(Bucket="bucket-one", Key="k", Body=b"x")
    upload, _ = one_part(client, "mp", b"1")
    place.directory.rename(place.tree / "other-name")
    for call, arguments in ((client.get_object, {"Key": "k"}), (client.put_object, {"Key": "k", "Body": b"y"}),
                            (client.list_objects_v2, {}), (client.delete_object, {"Key": "k"}),
                            (client.upload_part, {"Key": "mp", "UploadId": upload, "PartNumber": 2, "Body": b"2"})):
        assert refusal(call, Bucket="bucket-one", **arguments)[:2] == (404, "NoSuchBucket"), call
    assert not place.directory.exists()
    assert s3.body(client, "other-name", "k") == b"x"
    assert [part["PartNumber"] for part in client.list_parts(Bucket="other-name", Key="mp", UploadId=upload)["Parts"]] == [1]
    place.directory.mkdir()
    (place.directory / "new").write_bytes(b"another directory")
    assert list(s3.listed(client, "bucket-one")) == ["new"]
    (place.directory / "new").unlink()
    place.directory.rmdir()
    place.directory.symlink_to("other-name")
    assert refusal(client.list_objects_v2, Bucket="bucket-one")[:2] == (404, "NoSuchBucket"), "a link is no bucket"
    assert [found["Name"] for found in client.list_buckets()["Buckets"]] == ["other-name"]


# What doctor says of a disk.

@pytest.mark.parametrize("kind, expected", [
    ("ext4", {"extended attributes": "ok", "unnamed files": "ok", "locks": "ok", "times": "ok"}),
    ("ext4-small-inodes", {"extended attributes": "weak", "times": "weak"}),
    ("tmpfs", {"extended attributes": "ok", "filesystem": "ok"}),
    ("ramfs", {"free space": "?", "extended attributes": "weak", "unnamed files": "ok"}),
])
def test_doctor_finds_what_a_filesystem_lacks_and_leaves_nothing(tmp_path, kind, expected, binary):
    folder = tmp_path / "disk"
    with trees.Mount(folder, kind, 24):
        (folder / "photos").mkdir()
        (folder / "with space").mkdir()
        (folder / "lost+found").mkdir()
        before = sorted(os.listdir(folder))
        done = subprocess.run([binary, "doctor", str(folder)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
        found = {line[7:31].strip(): line[:6].strip() for line in done.stdout.splitlines() if line[:6].strip() in ("ok", "weak", "bad", "?")}
        assert expected.items() <= found.items(), done.stdout
        assert found["bucket names"] == "weak" and "with space" in done.stdout and "lost+found" not in done.stdout
        assert sorted(os.listdir(folder)) == before, "the probe removes what it made"
        looked = subprocess.run([binary, "doctor", "--read-only", str(folder)], capture_output=True, text=True, timeout=60)
        assert looked.returncode == 0 and "were not tried" in looked.stdout.splitlines()[-1], looked.stdout


def test_on_a_clock_of_whole_seconds_the_md5_shows_at_once_and_a_rewrite_within_the_second_never_hides(daemon, tmp_path, random):
    """There a rewrite right after the PUT has the ctime of the PUT: only the mtime can tell them apart, also when the second is over."""
    folder = tmp_path / "disk"
    with trees.Mount(folder, "ext4-small-inodes", 64):
        one = daemon(folder)
        client = s3.client(one.url)
        client.create_bucket(Bucket="bucket-one")
        before = pathlib.Path(folder / "bucket-one").stat().st_ctime_ns
        assert before % 10**9 == 0, "the clock shows whole seconds"
        bodies = {f"k-{number}": (random.bytes(500), random.bytes(500)) for number in range(20)}
        for key, (old, new) in bodies.items():
            client.put_object(Bucket="bucket-one", Key=key, Body=old)
            assert s3.etags_everywhere(client, "bucket-one", key) == {data.md5(old)}
            with open(folder / "bucket-one" / key, "r+b") as file:
                file.write(new)
            assert s3.etag(client, "bucket-one", key) != data.md5(old)
        client.put_object(Bucket="bucket-one", Key="kept", Body=b"kept")
        client.put_object_tagging(Bucket="bucket-one", Key="kept", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
        trees.grows_old(folder / "bucket-one" / "kept")
        for _ in range(2):
            for key, (old, new) in bodies.items():
                tags = s3.etags_everywhere(client, "bucket-one", key)
                assert len(tags) == 1 and (tags == {data.md5(new)} or tags.pop().endswith("-1")), (key, data.md5(old))
            assert s3.etags_everywhere(client, "bucket-one", "kept") == {data.md5(b"kept")}
            one.restart()
            client = s3.client(one.url)
        one.stop()


@pytest.mark.parametrize("kind", ["ramfs", "ext4-small-inodes"])
def test_without_room_for_xattrs_every_object_keeps_what_it_was_given(daemon, tmp_path, random, kind):
    """Records then lie in .twintree/records: metadata, tags and checksums hold, also after a restart."""
    folder = tmp_path / "disk"
    with trees.Mount(folder, kind, 24):
        one = daemon(folder)
        client = s3.client(one.url)
        client.create_bucket(Bucket="bucket-one")
        body = random.bytes(100_000)
        given = {"Metadata": {"long": "y" * 1500}, "ContentType": "text/x-special"}
        for key in ("dir/k", "an//nex"):
            client.put_object(Bucket="bucket-one", Key=key, Body=body, Tagging="a=b", **given)
        client.copy_object(Bucket="bucket-one", Key="copy", CopySource="bucket-one/dir/k")
        for _ in range(2):
            for key in ("dir/k", "an//nex", "copy"):
                head = client.head_object(Bucket="bucket-one", Key=key)
                assert {name: head[name] for name in given} == given, key
                assert client.get_object_tagging(Bucket="bucket-one", Key=key)["TagSet"] == [{"Key": "a", "Value": "b"}]
                assert len(s3.etags_everywhere(client, "bucket-one", key)) == 1
                assert s3.body(client, "bucket-one", key) == body
            one.restart()
            client = s3.client(one.url)
        for key in ("dir/k", "an//nex", "copy"):
            client.delete_object(Bucket="bucket-one", Key=key)
        client.delete_bucket(Bucket="bucket-one")
        assert not (folder / "bucket-one").exists()
        one.stop()


@pytest.fixture
def binary():
    """The binary under test, for its other commands."""
    from lib import server
    return str(pathlib.Path(server.BINARY))


# Reading writes nothing, also where S3 wrote before.

@pytest.mark.parametrize("flags", [["--seal", "off"], ["--read-only"]], ids=["default", "read-only"])
@pytest.mark.parametrize("kept", ["all", "no locks", "no reserved directory"])
def test_reading_what_s3_wrote_and_a_person_copied_writes_nothing(daemon, tree, tmp_path, flags, kept):
    """Records, annex and pending uploads included: names, modes, all times and xattrs stay, files unverified or not."""
    one = daemon(tree)
    client = s3.client(one.url)
    client.create_bucket(Bucket="bucket-one")
    keys = ("a", "b/c", "x//y", "n" * 300)
    for key in keys:
        client.put_object(Bucket="bucket-one", Key=key, Body=key.encode(), Metadata={"a": "b"}, Tagging="a=b")
    upload, _ = one_part(client, "pending", b"1")
    one.stop()
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(tree), str(copy)], check=True)
    for path in {"all": [], "no locks": [".twintree/locks"], "no reserved directory": [".twintree"]}[kept]:
        subprocess.run(["rm", "-r", str(copy / "bucket-one" / path)], check=True)
    for folder, _, files in os.walk(copy):
        for path in (pathlib.Path(folder, name) for name in files if ".twintree" not in folder):
            os.chmod(path, 0o600)  # unverified from now on
            os.utime(path, ns=(10**18, path.stat().st_mtime_ns))  # relatime would move an atime so old
    trees.quieten(copy)
    before = trees.picture(copy)
    one = daemon(copy, *flags)
    client = s3.client(one.url)
    client.list_buckets()
    client.list_object_versions(Bucket="bucket-one")
    if kept != "no reserved directory":
        assert client.list_multipart_uploads(Bucket="bucket-one")["Uploads"][0]["Key"] == "pending"
        assert len(client.list_parts(Bucket="bucket-one", Key="pending", UploadId=upload)["Parts"]) == 1
    for key in s3.listed(client, "bucket-one"):
        md5 = hashlib.md5(key.encode()).hexdigest()
        if not filesystems.lacks("xattrs"):  # else records lie beside, by inode, and do not travel
            assert client.get_object_tagging(Bucket="bucket-one", Key=key)["TagSet"] == [{"Key": "a", "Value": "b"}]
            assert s3.body(client, "bucket-one", key, IfMatch=f'"{md5}"') == key.encode()
        assert s3.body(client, "bucket-one", key) == key.encode()
        client.head_object(Bucket="bucket-one", Key=key, ChecksumMode="ENABLED")
        client.get_object_attributes(Bucket="bucket-one", Key=key, ObjectAttributes=["ETag", "Checksum"])
    one.stop()
    assert trees.picture(copy) == before


# What is kept in memory.

@pytest.mark.parametrize("cache", ["1K", "64K", "1G"])
def test_listings_are_right_whatever_fits_into_their_cache(daemon, tree, cache):
    """1K holds no folder's names, 64K one or two of them at a time, so that one drives out the other."""
    top = tree / "bucket-one"
    keys = sorted(f"folder-{folder}/{number:04}" for folder in range(4) for number in range(500))
    for folder in range(4):
        (top / f"folder-{folder}").mkdir(parents=True)
    for key in keys:
        (top / key).write_bytes(b"x")
    client = s3.client(daemon(tree, "--list-cache", cache, "--seal", "off").url)
    for _ in range(2):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket-one", PaginationConfig={"PageSize": 300})
        listed = {entry["Key"]: entry["ETag"] for page in pages for entry in page["Contents"]}
        assert list(listed) == keys
    for key in keys[::333]:
        assert client.head_object(Bucket="bucket-one", Key=key)["ETag"] == listed[key]
