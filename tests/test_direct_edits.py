"""Files that change beside us: every way of changing one shows at once, and nothing else does."""

import mmap
import os
import pathlib
import shutil
import subprocess
import types

import botocore.exceptions
import pytest
from lib import data, filesystems, s3, server, tools, tree as trees

KEY = "dir/file.txt"
SIZE = 40_000


@pytest.fixture
def edited(served, client, bucket, tree, random):
    """An object that was PUT, and its file."""
    old = random.bytes(SIZE)
    client.put_object(Bucket=bucket, Key=KEY, Body=old, Metadata={"colour": "green"}, ContentType="text/plain")
    return types.SimpleNamespace(daemon=served, client=client, bucket=bucket, tree=tree, old=old, path=tree / bucket / KEY,
                                 etag=data.md5(old))


# What a PUT left is known everywhere, and travels.

def test_after_put_the_etag_is_the_md5_also_after_a_restart(edited):
    assert s3.etags_everywhere(edited.client, edited.bucket, KEY) == {edited.etag}
    edited.daemon.restart()
    assert s3.etags_everywhere(s3.client(edited.daemon.url), edited.bucket, KEY) == {edited.etag}


@pytest.mark.parametrize("way", [["cp", "-a"], ["rsync", "-aX"]], ids=["cp -a", "rsync -aX"])
def test_a_copied_bucket_keeps_its_etags_and_metadata(edited, daemon, tmp_path, way):
    if way[0] == "rsync":
        tools.need("rsync")
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run([*way, str(edited.tree / edited.bucket), str(other)], check=True)
    client = s3.client(daemon(other).url)
    if filesystems.lacks("xattrs"):  # records then lie beside, by inode: they do not travel, and never speak of another file
        tags = s3.etags_everywhere(client, edited.bucket, KEY)
        assert len(tags) == 1 and tags.pop().endswith("-1")
        assert client.head_object(Bucket=edited.bucket, Key=KEY)["Metadata"] == {}
        return
    assert s3.etags_everywhere(client, edited.bucket, KEY) == {edited.etag}
    head = client.head_object(Bucket=edited.bucket, Key=KEY, ChecksumMode="ENABLED")
    assert (head["Metadata"], head["ContentType"]) == ({"colour": "green"}, "text/plain")


@pytest.mark.parametrize("way", ["chmod", "mv"])
def test_chmod_and_mv_keep_the_md5_as_soon_as_it_was_verified_again(edited, way):
    key = KEY
    trees.next_tick(edited.path)
    if way == "chmod":
        edited.path.chmod(0o600)
    else:
        key = "dir/moved.txt"
        edited.path.rename(edited.path.with_name("moved.txt"))
    tags = s3.etags_everywhere(edited.client, edited.bucket, key)
    assert len(tags) == 1, "HEAD, GET and LIST agree at once"
    derived = tags.pop()
    # The recorded ETag is verified before a condition that names it is decided.
    assert s3.body(edited.client, edited.bucket, key, IfMatch=f'"{edited.etag}"') == edited.old
    server.wait_until(lambda: s3.etags_everywhere(edited.client, edited.bucket, key) == {edited.etag}, "the sealer verified it", 60)
    assert s3.body(edited.client, edited.bucket, key, IfMatch=f'"{derived}"') == edited.old, "who read it meanwhile goes on"
    assert edited.client.head_object(Bucket=edited.bucket, Key=key)["Metadata"] == {"colour": "green"}


# Every way of changing a file.

def append(edited, new):
    with open(edited.path, "ab") as file:
        file.write(new)
    return edited.old + new


def in_place(edited, new):
    with open(edited.path, "r+b") as file:
        file.write(new)
    return new + edited.old[len(new):]


def in_place_with_mtime_put_back(edited, new):
    trees.next_tick(edited.path)
    before = edited.path.stat()
    body = in_place(edited, new)
    os.utime(edited.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return body


def truncate(edited, new):
    os.truncate(edited.path, SIZE // 2)
    return edited.old[: SIZE // 2]


def truncate_and_grow_again(edited, new):
    os.truncate(edited.path, SIZE // 2)
    os.truncate(edited.path, SIZE)
    return edited.old[: SIZE // 2] + bytes(SIZE - SIZE // 2)


def rename_over(edited, new):
    fresh = edited.path.with_name("fresh")
    fresh.write_bytes(new)
    fresh.rename(edited.path)
    return new


def rename_another_object_over(edited, new):
    edited.client.put_object(Bucket=edited.bucket, Key="dir/another", Body=new)
    edited.path.with_name("another").rename(edited.path)
    return new


def copy_a_plain_file_over(edited, new):
    plain = edited.tree / "plain"
    plain.write_bytes(new)
    subprocess.run(["cp", "-a", str(plain), str(edited.path)], check=True)
    return new


def copy_an_object_over(edited, new):
    edited.client.put_object(Bucket=edited.bucket, Key="dir/another", Body=new)
    subprocess.run(["cp", "-a", str(edited.path.with_name("another")), str(edited.path)], check=True)
    return new


def sed(edited, new):
    edited.path.write_bytes(edited.old)  # a text for sed: its own bytes, then a line
    with open(edited.path, "ab") as file:
        file.write(b"\nold line\n")
    subprocess.run(["sed", "-i", "s/old line/new line/", str(edited.path)], check=True, env=dict(os.environ, LC_ALL="C"))
    return edited.path.read_bytes()


def through_mmap(edited, new):
    with open(edited.path, "r+b") as file, mmap.mmap(file.fileno(), SIZE) as view:
        view[100:100 + 16] = new[:16]
        view.flush()
    return edited.old[:100] + new[:16] + edited.old[116:]


def through_mmap_without_a_flush(edited, new):
    with open(edited.path, "r+b") as file:
        view = mmap.mmap(file.fileno(), SIZE)
        view[100:100 + 16] = new[:16]
        view.close()
    return edited.old[:100] + new[:16] + edited.old[116:]


def within_the_same_tick(edited, new):
    descriptor = os.open(edited.path, os.O_WRONLY)
    edited.client.put_object(Bucket=edited.bucket, Key="warm", Body=b"x")
    edited.client.put_object(Bucket=edited.bucket, Key=KEY, Body=edited.old)
    os.close(descriptor)
    descriptor = os.open(edited.path, os.O_WRONLY)
    os.pwrite(descriptor, new[:50], 0)
    os.close(descriptor)
    return new[:50] + edited.old[50:]


WAYS = [append, in_place, in_place_with_mtime_put_back, truncate,
        truncate_and_grow_again, rename_over, rename_another_object_over,
        copy_a_plain_file_over, copy_an_object_over, sed, through_mmap, through_mmap_without_a_flush, within_the_same_tick]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_change_shows_at_once_in_head_get_list_and_conditions(edited, random, way):
    new = random.bytes(SIZE)
    before = edited.path.stat()
    body = way(edited, new)
    assert edited.path.read_bytes() == body, "the edit is what it says"
    if way is truncate_and_grow_again and filesystems.lacks("times of truncate"):
        trees.next_tick(edited.path)
        now = edited.path.stat()
        assert (before.st_ino, before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns), \
            "the kernel shows no trace of it, to nobody"
        return
    client, bucket = edited.client, edited.bucket
    tags = s3.etags_everywhere(client, bucket, KEY)
    assert len(tags) == 1, f"HEAD, GET and LIST disagree: {tags}"
    etag = tags.pop()
    assert etag != edited.etag
    assert etag == data.md5(body) or etag.endswith("-1"), "an ETag that looks like an MD5 is one"
    head = client.head_object(Bucket=bucket, Key=KEY, ChecksumMode="ENABLED")
    assert head["ContentLength"] == len(body) == s3.listed(client, bucket)[KEY]["Size"]
    if etag != data.md5(body):  # a record that travelled with its content may be claimed
        assert not [name for name in head if name.startswith("Checksum")], "no stored checksum of other bytes"
    assert s3.body(client, bucket, KEY) == body
    s3.refused(412, "PreconditionFailed", client.get_object, Bucket=bucket, Key=KEY, IfMatch=f'"{edited.etag}"')
    s3.refused(412, "PreconditionFailed", client.put_object, Bucket=bucket, Key=KEY, Body=b"lost", IfMatch=f'"{edited.etag}"')
    assert edited.path.read_bytes() == body
    assert s3.body(client, bucket, KEY, IfMatch=f'"{etag}"') == body
    assert s3.etags_everywhere(client, bucket, KEY) == {etag}, "reading changes nothing"
    client.put_object(Bucket=bucket, Key=KEY, Body=new, IfMatch=f'"{etag}"')
    assert s3.etags_everywhere(client, bucket, KEY) == {data.md5(new)}


def test_a_rewrite_within_one_tick_shows_each_time(edited, random):
    """Fifty rounds of PUT and an immediate rewrite of equal size: no stamp hides one."""
    for _ in range(50):
        old, new = random.bytes(500), random.bytes(500)
        edited.client.put_object(Bucket=edited.bucket, Key="quick", Body=old)
        with open(edited.tree / edited.bucket / "quick", "r+b") as file:
            file.write(new)
        assert s3.etag(edited.client, edited.bucket, "quick") != data.md5(old)
        assert s3.body(edited.client, edited.bucket, "quick") == new


def test_a_rewrite_within_one_tick_shows_also_when_the_tick_is_long_over(edited, random):
    """Where the clock shows whole seconds a rewrite right after the PUT has the ctime of the PUT: it must not be taken for it later."""
    bodies = {f"quick-{number}": (random.bytes(500), random.bytes(500)) for number in range(30)}
    for key, (old, new) in bodies.items():
        edited.client.put_object(Bucket=edited.bucket, Key=key, Body=old)
        with open(edited.tree / edited.bucket / key, "r+b") as file:
            file.write(new)
    trees.grows_old(edited.tree / edited.bucket / key)
    for key, (old, new) in bodies.items():
        tags = s3.etags_everywhere(edited.client, edited.bucket, key)
        assert len(tags) == 1 and (tags == {data.md5(new)} or tags.pop().endswith("-1")), (key, data.md5(old))


def test_each_direct_rewrite_has_an_etag_of_its_own(edited, random):
    seen = set()
    for _ in range(20):
        edited.path.write_bytes(random.bytes(100))
        seen.add(s3.etag(edited.client, edited.bucket, KEY))
        trees.next_tick(edited.path)
    assert len(seen) == 20, seen


def test_an_edited_large_file_downloads_with_ranged_gets(edited, random, tmp_path):
    body = random.bytes(20 * data.MIB)
    source = tmp_path / "large"
    source.write_bytes(body)
    edited.client.upload_file(str(source), edited.bucket, "large")
    with open(edited.tree / edited.bucket / "large", "r+b") as file:
        file.seek(9 * data.MIB)
        file.write(b"edited in the middle")
    edited.client.download_file(edited.bucket, "large", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (edited.tree / edited.bucket / "large").read_bytes() != body


def test_a_file_that_nobody_put_has_a_stable_etag_also_across_a_restart(edited, random):
    shutil.copyfile(edited.path, edited.path.with_name("native"))
    tags = [s3.etags_everywhere(edited.client, edited.bucket, "dir/native") for _ in range(2)]
    edited.daemon.restart()
    tags.append(s3.etags_everywhere(s3.client(edited.daemon.url), edited.bucket, "dir/native"))
    assert tags[0] == tags[1] == tags[2] and len(tags[0]) == 1
    assert tags[0].pop().endswith("-1")


def test_a_derived_etag_holds_in_conditions_after_the_sealer_settled_the_file(edited, random):
    """An edit that hides its mtime is unverified; when the sealer has settled it, whoever read it before goes on."""
    body = in_place_with_mtime_put_back(edited, random.bytes(SIZE))
    derived = s3.etag(edited.client, edited.bucket, KEY)
    assert derived.endswith("-1")
    server.wait_until(lambda: s3.etag(edited.client, edited.bucket, KEY) != derived, "the sealer settled the file", 60)
    assert s3.body(edited.client, edited.bucket, KEY, IfMatch=f'"{derived}"') == body
    tags = s3.etags_everywhere(edited.client, edited.bucket, KEY)
    assert len(tags) == 1 and tags != {edited.etag}


def test_a_file_that_is_cut_while_it_is_read_ends_the_connection(edited, random):
    """A body that cannot be what the head promised is never padded."""
    body = random.bytes(64 * data.MIB)
    path = edited.tree / edited.bucket / "shrinks"
    path.write_bytes(body)
    got = edited.client.get_object(Bucket=edited.bucket, Key="shrinks")["Body"]
    first = got.read(1 * data.MIB)
    os.truncate(path, 2 * data.MIB)
    with pytest.raises((botocore.exceptions.IncompleteReadError, botocore.exceptions.ResponseStreamingError,
                        botocore.exceptions.ReadTimeoutError)) as caught:
        got.read()
    assert first == body[: 1 * data.MIB]
    assert not isinstance(caught.value, botocore.exceptions.ReadTimeoutError), "it hangs"


def test_a_reader_of_a_replaced_object_gets_one_version_whole(edited, random):
    old, new = random.bytes(32 * data.MIB), random.bytes(32 * data.MIB)
    edited.client.put_object(Bucket=edited.bucket, Key="swap", Body=old)
    got = edited.client.get_object(Bucket=edited.bucket, Key="swap")["Body"]
    first = got.read(data.MIB)
    edited.client.put_object(Bucket=edited.bucket, Key="swap", Body=new)
    assert first + got.read() == old
    assert s3.body(edited.client, edited.bucket, "swap") == new


# The other direction: what S3 did is what a person finds.

def test_what_s3_wrote_are_plain_files_and_what_it_deleted_is_gone(edited, random):
    client, bucket, directory = edited.client, edited.bucket, edited.tree / edited.bucket
    client.put_object(Bucket=bucket, Key="new/one", Body=b"1")
    client.copy_object(Bucket=bucket, Key="new/two", CopySource={"Bucket": bucket, "Key": KEY})
    assert (directory / "new" / "one").read_bytes() == b"1"
    assert (directory / "new" / "two").read_bytes() == edited.old
    client.delete_object(Bucket=bucket, Key="new/one")
    assert os.listdir(directory / "new") == ["two"]
    client.delete_object(Bucket=bucket, Key="new/two")
    marked = not filesystems.lacks("xattrs")  # unmarked, it might be a person's, and stays
    assert (directory / "new").exists() != marked, "a folder that only S3 made goes with its last object"


def test_a_folder_that_a_person_made_stays_when_s3_empties_it(edited):
    folder = edited.tree / edited.bucket / "mine"
    folder.mkdir()
    edited.client.put_object(Bucket=edited.bucket, Key="mine/x", Body=b"x")
    edited.client.delete_object(Bucket=edited.bucket, Key="mine/x")
    assert folder.is_dir()


def test_files_and_buckets_that_a_person_made_or_removed_show_at_once(edited):
    client = edited.client
    made = edited.tree / "made-by-hand"
    for _ in range(3):
        made.mkdir()
        (made / "f").write_bytes(b"direct")
        assert "made-by-hand" in [entry["Name"] for entry in client.list_buckets()["Buckets"]]
        assert list(s3.listed(client, "made-by-hand")) == ["f"]
        (made / "g").write_bytes(b"second")
        assert list(s3.listed(client, "made-by-hand")) == ["f", "g"]
        (made / "f").unlink()
        assert list(s3.listed(client, "made-by-hand")) == ["g"]
        shutil.rmtree(made)
        s3.refused(404, "NoSuchBucket", client.list_objects_v2, Bucket="made-by-hand")
    (edited.tree / edited.bucket).rename(edited.tree / "renamed")
    assert s3.body(client, "renamed", KEY) == edited.old
    s3.refused(404, "NoSuchBucket", client.get_object, Bucket=edited.bucket, Key=KEY)
    replacement = pathlib.Path(edited.tree / "renamed")
    trees.remove(replacement)
    replacement.mkdir()
    assert list(s3.listed(client, "renamed")) == []


def test_a_deep_rename_shows_in_listings_at_once(edited):
    client, bucket, directory = edited.client, edited.bucket, edited.tree / edited.bucket
    for name in ("a/b/c/1", "a/b/c/2", "a/b/d"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(name.encode())
    assert list(s3.listed(client, bucket)) == ["a/b/c/1", "a/b/c/2", "a/b/d", KEY]
    (directory / "a" / "b").rename(directory / "z")
    assert list(s3.listed(client, bucket)) == [KEY, "z/c/1", "z/c/2", "z/d"]
