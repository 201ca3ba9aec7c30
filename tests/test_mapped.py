"""Several roots, buckets that the configuration maps to directories of their own, and what it says of single buckets: each
promise by S3, in the mount and in the directory."""

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import types

import pytest
from lib import admin, command, data, mountpoint, s3, server, trace, tree as trees

USAGE, NO_INPUT = 64, 66
ROOT = os.geteuid() == 0
needs_mount = pytest.mark.skipif(not ROOT or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse")


@pytest.fixture(params=["same", "other"])
def photos(request, tmp_path):
    """A directory outside the root, on the root's filesystem and on another."""
    folder = tmp_path / "elsewhere" / "photos"
    folder.mkdir(parents=True)
    if request.param == "same":
        yield folder
        return
    with trees.Mount(folder, "ext4", 64):
        yield folder


@pytest.fixture
def config(tmp_path):
    """Writes the config file."""
    def write(*lines):
        path = tmp_path / "twintree.toml"
        path.write_text("\n".join(map(str, lines)) + "\n")
        return path

    return write


@pytest.fixture
def start(daemon, tree, config):
    """Starts a daemon on the tree with these lines in its config file; `flags` go to the command line."""
    def begin(*lines, flags=()):
        one = daemon(tree, "--config", config(*lines), "--admin", "127.0.0.1:0", *flags)
        return types.SimpleNamespace(daemon=one, client=s3.client(one.url), tree=tree)

    return begin


def mapped(path, *more):
    return ["[buckets.photos]", f'path = "{path}"', *more]


def refused(code, call, *words, **named):
    with pytest.raises(OSError) as caught:
        call(*words, **named)
    assert caught.value.errno == code, errno.errorcode[caught.value.errno]


def names(client):
    return [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]


def check(tree, config, state, *roots):
    """What `config check` says of it: exit code and standard error; and `serve`, which must say the same."""
    environment = {**command.environment(), "TWINTREE_ACCESS_KEY": server.ACCESS_KEY, "TWINTREE_SECRET_KEY": server.SECRET_KEY}
    said = []
    for words in (["config", "check"], ["serve", "--listen", "127.0.0.1:0"]):
        done = subprocess.run([server.BINARY, *words, str(tree), *map(str, roots), "--config", str(config), "--state-dir", str(state)], capture_output=True,
                              text=True, timeout=60, stdin=subprocess.DEVNULL, env=environment)
        said.append((done.returncode, done.stderr.strip().splitlines()[-1]))
    assert said[0][0] == said[1][0], said
    assert said[0][1] == said[1][1], said
    return said[0]


# A mapped bucket is one like all others.

def test_all_that_a_bucket_does_a_mapped_one_does(start, photos, random, tree):
    (photos / "old").write_bytes(b"from before")
    (tree / "plain").mkdir()
    place = start(*mapped(photos))
    client = place.client
    assert names(client) == ["photos", "plain"]
    client.head_bucket(Bucket="photos")
    assert s3.body(client, "photos", "old") == b"from before"
    body = random.bytes(300_000)
    tag = client.put_object(Bucket="photos", Key="a/b/c", Body=body, Metadata={"x": "y"})["ETag"].strip('"')
    assert tag == data.md5(body) and s3.etags_everywhere(client, "photos", "a/b/c") == {tag}
    assert (photos / "a/b/c").read_bytes() == body
    assert list(s3.listed(client, "photos")) == ["a/b/c", "old"]
    client.put_object(Bucket="photos", Key="../odd//key", Body=b"annexed")
    assert s3.body(client, "photos", "../odd//key") == b"annexed"
    upload = client.create_multipart_upload(Bucket="photos", Key="whole")["UploadId"]
    parts = [random.bytes(5 * data.MIB), random.bytes(1000)]
    tags = [client.upload_part(Bucket="photos", Key="whole", UploadId=upload, PartNumber=number, Body=part)["ETag"]
            for number, part in enumerate(parts, 1)]
    client.complete_multipart_upload(Bucket="photos", Key="whole", UploadId=upload, MultipartUpload={
        "Parts": [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]})
    assert (photos / "whole").read_bytes() == b"".join(parts)
    client.delete_object(Bucket="photos", Key="a/b/c")
    assert not (photos / "a").exists() and photos.exists()
    assert os.listdir(tree) == ["plain"], "nothing of it lies in the root"
    place.daemon.restart()
    client = s3.client(place.daemon.url)
    assert s3.body(client, "photos", "whole") == b"".join(parts)
    assert s3.etag(client, "photos", "whole") == data.multipart_etag(parts)


def test_objects_are_copied_between_a_mapped_bucket_and_another(start, photos, random):
    place = start(*mapped(photos))
    client = place.client
    client.create_bucket(Bucket="plain")
    body = random.bytes(6 * data.MIB)
    for source, target in (("photos", "plain"), ("plain", "photos")):
        client.put_object(Bucket=source, Key="k", Body=body, Metadata={"from": source})
        client.copy_object(Bucket=target, Key="dir/copy", CopySource=f"{source}/k")
        assert s3.body(client, target, "dir/copy") == body and s3.etag(client, target, "dir/copy") == data.md5(body)
        assert client.head_object(Bucket=target, Key="dir/copy")["Metadata"] == {"from": source}
        upload = client.create_multipart_upload(Bucket=target, Key="parts")["UploadId"]
        part = client.upload_part_copy(Bucket=target, Key="parts", UploadId=upload, PartNumber=1, CopySource=f"{source}/k",
                                       CopySourceRange="bytes=1-5242880")["CopyPartResult"]["ETag"]
        client.complete_multipart_upload(Bucket=target, Key="parts", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]})
        assert s3.body(client, target, "parts") == body[1:5242881]


def test_what_is_changed_in_a_mapped_directory_shows_at_once_and_is_sealed(start, photos, random):
    place = start(*mapped(photos), flags=["--seal-after", "1s"])
    (photos / "new").write_bytes(b"one")
    assert s3.body(place.client, "photos", "new") == b"one"
    (photos / "new").write_bytes(b"other")
    assert s3.body(place.client, "photos", "new") == b"other"
    os.rename(photos / "new", photos / "moved")
    assert list(s3.listed(place.client, "photos")) == ["moved"]
    server.wait_until(lambda: s3.etag(place.client, "photos", "moved") == data.md5(b"other"), "it is sealed")
    assert os.getxattr(photos / "moved", "user.twintree")


def test_what_the_commands_are_told_by_the_config_they_do(tree, photos, config, random):
    (photos / "k").write_bytes(b"content")
    file = config(*mapped(photos))
    assert command.seal(tree, "--config", file)["sealed"] == 1
    [row] = command.inventory(tree, "photos", "--config", file)
    assert (row["key"], row["etag"], row["state"]) == ("k", data.md5(b"content"), "valid")


def test_a_mapped_bucket_is_made_and_removed_in_the_configuration_alone(start, photos):
    place = start(*mapped(photos))
    s3.refused(409, "BucketAlreadyOwnedByYou", s3.client(place.daemon.url, region="eu-west-1").create_bucket, Bucket="photos",
               CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    answer = s3.refused(403, "AccessDenied", place.client.delete_bucket, Bucket="photos")
    assert "mapped in the configuration" in str(answer)
    assert photos.is_dir() and names(place.client) == ["photos"]


def test_a_directory_of_the_root_with_its_name_is_not_served_and_that_is_said(start, tree, photos, config, tmp_path):
    (tree / "photos").mkdir()
    (tree / "photos" / "hidden").write_bytes(b"x")
    (photos / "shown").write_bytes(b"y")
    place = start(*mapped(photos))
    assert names(place.client) == ["photos"] and list(s3.listed(place.client, "photos")) == ["shown"]
    said = f"{tree}/photos is not served: {photos} is the bucket of its name"
    assert said in place.daemon.log.read_text()
    done = command.run("config", "check", tree, "--config", config(*mapped(photos)), "--state-dir", tmp_path / "state").stdout.decode()
    assert f"{tree}/photos would not be served" in done and f"{tree}, {photos} would be served" in done
    done = command.run("doctor", tree, "--config", config(*mapped(photos))).stdout.decode()
    assert f"{tree}/photos is not served: {photos} is the bucket of its name" in done


# Several roots.

@pytest.fixture(params=["same", "other"])
def second(request, tmp_path):
    """Another root, on the first one's filesystem and on another."""
    folder = tmp_path / "second"
    folder.mkdir()
    if request.param == "same":
        yield folder
        return
    with trees.Mount(folder, "ext4", 64):
        yield folder


@pytest.fixture(params=["arguments", "config"])
def rooted(request, daemon, tree, config, tmp_path):
    """Starts a daemon on two roots, said in one way or the other."""
    def begin(second, *flags):
        if request.param == "config":
            one = daemon(tree, "--admin", "127.0.0.1:0", *flags)
            one.stop()
            one.command = lambda: [server.BINARY, "serve", "--config", str(config(f'root = ["{tree}", "{second}"]')), "--listen", "127.0.0.1:0",
                                   "--state-dir", str(one.state), "--admin", "127.0.0.1:0", *map(str, flags)]
            one.start()
        else:
            one = daemon(tree, second, "--admin", "127.0.0.1:0", *flags)
        return one

    return begin


def test_several_roots_are_one_tree(rooted, tree, second, random):
    for folder in (tree / "both", second / "both", second / "own"):
        folder.mkdir()
        (folder / "where").write_text(folder.parent.name)
    one = rooted(second)
    client = s3.client(one.url)
    assert names(client) == ["both", "own"]
    assert s3.body(client, "both", "where") == b"tree" and s3.body(client, "own", "where") == b"second"
    assert f"{second}/both is not served: {tree}/both is the bucket of its name" in one.log.read_text()
    client.create_bucket(Bucket="new-one")
    assert (tree / "new-one").is_dir()
    s3.refused(409, "BucketAlreadyOwnedByYou", s3.client(one.url, region="eu-west-1").create_bucket, Bucket="own",
               CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    body = random.bytes(100_000)
    client.put_object(Bucket="own", Key="dir/k", Body=body)
    client.copy_object(Bucket="new-one", Key="copy", CopySource="own/dir/k")
    assert (second / "own/dir/k").read_bytes() == body == (tree / "new-one/copy").read_bytes()
    (second / "direct").mkdir()
    (second / "direct" / "k").write_bytes(b"x")
    assert [s3.body(client, "direct", "k") for _ in range(3)] == [b"x"] * 3
    (tree / "direct").mkdir()
    s3.refused(404, "NoSuchKey", client.get_object, Bucket="direct", Key="k")
    assert s3.listed(client, "direct") == {}, "the first root has it now"
    (tree / "direct").rmdir()
    client.delete_object(Bucket="direct", Key="k")
    client.delete_bucket(Bucket="direct")
    assert not (second / "direct").exists() and names(client) == ["both", "new-one", "own"]


def test_a_bucket_is_not_removed_while_another_root_would_serve_its_name(daemon, tree, tmp_path):
    second = tmp_path / "second"
    for folder in (tree / "both", second / "both"):
        folder.mkdir(parents=True)
    (second / "both" / "k").write_bytes(b"x")
    one = daemon(tree, second)
    client = s3.client(one.url)
    answer = s3.refused(409, "InvalidBucketState", client.delete_bucket, Bucket="both")
    assert "another root has a directory of that name" in answer["Error"]["Message"] and str(tmp_path) not in str(answer)
    assert f"the bucket stays: {second}/both would be served in its place" in one.log.read_text()
    assert (tree / "both").is_dir() and s3.listed(client, "both") == {}
    os.rename(second, tmp_path / "aside")
    s3.refused(503, "ServiceUnavailable", client.delete_bucket, Bucket="both")
    os.rename(tmp_path / "aside", second)
    os.rename(second / "both", second / "renamed")
    client.delete_bucket(Bucket="both")
    assert names(client) == ["renamed"] and not (tree / "both").exists()


def test_a_root_that_is_gone_is_503_and_the_buckets_of_the_other_go_on(rooted, tree, tmp_path):
    (tmp_path / "second" / "own").mkdir(parents=True)
    (tree / "first").mkdir()
    one = rooted(tmp_path / "second")
    client = s3.client(one.url)
    assert names(client) == ["first", "own"]
    os.rename(tmp_path / "second", tmp_path / "aside")
    client.put_object(Bucket="first", Key="k", Body=b"x")
    for bucket in ("own", "nobodys"):
        s3.refused(503, "ServiceUnavailable", client.list_objects_v2, Bucket=bucket)
    s3.refused(503, "ServiceUnavailable", client.list_buckets)
    page = admin.page(one, "/health/ready")
    assert page.status == 503 and f"the served directory {tmp_path}/second is gone" in page.text
    os.rename(tmp_path / "aside", tmp_path / "second")
    assert names(client) == ["first", "own"] and admin.page(one, "/health/ready").status == 200


def test_all_roots_are_shown_as_one_setting(tree, tmp_path):
    done = command.run("config", "show", tree, tmp_path / "second", "--state-dir", tmp_path / "state")
    assert f'root = ["{tree}", "{tmp_path}/second"]' in done.stdout.decode() and "# argument" in done.stdout.decode()


def test_roots_that_lie_in_each_other_are_refused(tree, config, tmp_path):
    (tree / "inside").mkdir()
    code, said = check(tree, config("[buckets]"), tmp_path / "state", tree / "inside")
    assert code == USAGE and "hold the same files: name directories of which none lies in another" in said
    code, said = check(tree, config("[buckets]"), tmp_path / "state", "/nowhere/root")
    assert code == NO_INPUT and "cannot serve /nowhere/root: there is no such directory" in said


# Gone is never empty.

@pytest.mark.parametrize("way", ["moved", "replaced", "unmounted"])
def test_a_mapped_directory_that_is_gone_is_503_and_never_an_empty_bucket(start, tmp_path, way):
    folder, aside = tmp_path / "away" / "photos", tmp_path / "aside"
    folder.mkdir(parents=True)
    disk = trees.Mount(folder, "ext4", 64) if way == "unmounted" else None
    try:
        (folder / "k").write_bytes(b"x")
        place = start(*mapped(folder))
        client = place.client
        client.create_bucket(Bucket="plain")
        assert s3.body(client, "photos", "k") == b"x"
        assert admin.page(place.daemon, "/health/ready").status == 200
        if disk:
            subprocess.run(["umount", "-l", str(folder)], check=True)
            disk.mounted = False
        else:
            os.rename(folder, aside)
        if way == "replaced":
            folder.mkdir()
            (folder / "k").write_bytes(b"another's")
        for call, named in ((client.get_object, {"Key": "k"}), (client.list_objects_v2, {}), (client.put_object, {"Key": "k", "Body": b"y"}),
                            (client.delete_object, {"Key": "k"})):
            s3.refused(503, "ServiceUnavailable", call, Bucket="photos", **named)
        assert names(client) == ["photos", "plain"], "a client that mirrors must not take it for deleted"
        client.put_object(Bucket="plain", Key="k", Body=b"the others go on")
        page = admin.page(place.daemon, "/health/ready")
        assert page.status == 503 and f'the directory {folder} of bucket "photos" is gone' in page.text
        if way == "moved":
            os.rename(aside, folder)
            assert s3.body(client, "photos", "k") == b"x"
            assert admin.page(place.daemon, "/health/ready").status == 200
        elif way == "replaced":
            assert (folder / "k").read_bytes() == b"another's"
    finally:
        if disk and disk.mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


# What cannot be is refused before anything is served.

@pytest.mark.parametrize("what", ["inside the root", "above the root", "the root", "inside another", "the same twice", "through a link"])
def test_two_buckets_over_the_same_files_are_refused(tree, tmp_path, config, what):
    (tree / "a" / "b").mkdir(parents=True)
    (tmp_path / "one" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tree / "a")
    first, second = {
        "inside the root": (tree / "a", None), "above the root": (tmp_path, None), "the root": (tree, None),
        "inside another": (tmp_path / "one", tmp_path / "one" / "deep"), "the same twice": (tmp_path / "one", tmp_path / "one"),
        "through a link": (tmp_path / "link", None)}[what]
    lines = mapped(first) + (["[buckets.second]", f'path = "{second}"'] if second else [])
    code, said = check(tree, config(*lines), "/nowhere/state")
    assert code == USAGE and "hold the same files: give each bucket a directory of its own" in said and ".path: " in said


@pytest.mark.parametrize("line, code, words", [
    ('path = "relative/photos"', USAGE, 'buckets.photos.path: "relative/photos" is no absolute path: begin it with /'),
    ('path = "/nowhere/photos"', NO_INPUT, "cannot serve /nowhere/photos: there is no such directory: make it (mkdir -p /nowhere/photos)"),
    ('path = "/etc/passwd"', NO_INPUT, "cannot serve /etc/passwd: it is not a directory"),
    ('durability = "lax"', USAGE, 'buckets.photos.durability is strict or relaxed, not "lax"'),
    ('symlinks = "follow"', USAGE, 'buckets.photos.symlinks is inside or refuse, not "follow"'),
    ("read-only = 1", USAGE, "read-only: "),
    ("hide = 1", USAGE, "hide: expected a text or a list of texts"),
])
def test_each_mistake_is_one_sentence(tree, config, line, code, words):
    got, said = check(tree, config("[buckets.photos]", line), "/nowhere/state")
    assert got == code and words in said


def test_our_state_does_not_lie_in_what_is_mapped(tree, tmp_path, config):
    (tmp_path / "photos").mkdir()
    code, said = check_without_keys(tree, config(*mapped(tmp_path / "photos")), tmp_path / "photos" / "state")
    assert code == USAGE and "lies in the served tree" in said


def check_without_keys(tree, config, state):
    done = command.run("config", "check", tree, "--config", config, "--state-dir", state)
    return done.returncode, done.stderr.decode()


# Read-only.

def tree_of(folder):
    """All that lies below, with what would move if something was written."""
    return sorted((str(path), path.lstat().st_mtime_ns, path.lstat().st_ctime_ns) for path in [folder, *folder.rglob("*")])


def test_a_read_only_bucket_refuses_every_write_and_gets_none_of_ours(start, tree, random):
    (tree / "fixed").mkdir()
    (tree / "fixed" / "k").write_bytes(b"content")
    before = tree_of(tree / "fixed")
    place = start("[buckets.fixed]", "read-only = true", "[buckets.coming]", "read-only = true", flags=["--seal", "all", "--seal-after", "1s"])
    client = place.client
    client.create_bucket(Bucket="plain")
    (tree / "plain" / "k").write_bytes(b"content")
    for call, named in (
        (client.put_object, {"Key": "k", "Body": b"x"}), (client.put_object, {"Key": "new/", "Body": b""}), (client.delete_object, {"Key": "k"}),
        (client.copy_object, {"Key": "copy", "CopySource": "plain/k"}), (client.create_multipart_upload, {"Key": "u"}),
        (client.put_object_tagging, {"Key": "k", "Tagging": {"TagSet": [{"Key": "a", "Value": "b"}]}}), (client.delete_bucket, {}),
    ):
        s3.refused(403, "AccessDenied", call, Bucket="fixed", **named)
    s3.refused(403, "AccessDenied", client.create_bucket, Bucket="coming")
    errors = client.delete_objects(Bucket="fixed", Delete={"Objects": [{"Key": "k"}]})["Errors"]
    assert [error["Code"] for error in errors] == ["AccessDenied"]
    client.copy_object(Bucket="plain", Key="copy", CopySource="fixed/k")
    assert s3.body(client, "fixed", "k") == b"content"
    server.wait_until(lambda: s3.etag(client, "plain", "k") == data.md5(b"content"), "the other bucket is sealed")
    place.daemon.stop()
    assert tree_of(tree / "fixed") == before
    assert command.seal(tree, "--config", place.daemon._flags[1])["said"] == ""
    assert tree_of(tree / "fixed") == before and not (tree / "coming").exists()


# What else is said of one bucket.

def test_names_hidden_in_one_bucket_are_seen_in_another(start, tree):
    for name in ("one", "two"):
        (tree / name / "@eaDir").mkdir(parents=True)
        for key in ("k", "@eaDir/x", "all.tmp"):
            (tree / name / key).write_bytes(b"x")
    place = start('hide = "*.tmp"', "[buckets.one]", 'hide = ["@eaDir"]')
    client = place.client
    assert list(s3.listed(client, "one")) == ["k"] and list(s3.listed(client, "two")) == ["@eaDir/x", "k"]
    s3.refused(403, "AccessDenied", client.get_object, Bucket="one", Key="@eaDir/x")
    s3.refused(403, "AccessDenied", client.put_object, Bucket="one", Key="@eaDir/y", Body=b"x")
    s3.refused(403, "AccessDenied", client.put_object, Bucket="one", Key="z.tmp", Body=b"x")
    client.put_object(Bucket="two", Key="@eaDir/y", Body=b"x")
    client.delete_object(Bucket="one", Key="k")
    (tree / "one" / "all.tmp").unlink()
    assert "@eaDir, a hidden name" in str(s3.refused(409, "BucketNotEmpty", client.delete_bucket, Bucket="one"))
    assert (tree / "one" / "@eaDir" / "x").read_bytes() == b"x", "nobody removes what he cannot see"
    shutil.rmtree(tree / "one" / "@eaDir")
    (tree / "one" / "all.tmp").write_bytes(b"x")
    assert "all.tmp, a hidden name" in str(s3.refused(409, "BucketNotEmpty", client.delete_bucket, Bucket="one"))
    (tree / "one" / "all.tmp").unlink()
    client.delete_bucket(Bucket="one")
    assert not (tree / "one").exists()


def syncs(place, tmp_path, bucket, body):
    """What is synced for a PUT."""
    place.client.put_object(Bucket=bucket, Key="dir/warm", Body=b"x")
    with trace.Trace(place.daemon, tmp_path / f"strace-{bucket}") as traced:
        place.client.put_object(Bucket=bucket, Key="dir/new", Body=body)
    return [event.name for event in traced.events if event.name in ("fsync", "fdatasync")]


@pytest.mark.parametrize("usual, special", [("strict", "relaxed"), ("relaxed", "strict")])
def test_each_bucket_has_its_own_durability(start, tmp_path, random, usual, special):
    place = start(f'durability = "{usual}"', "[buckets.special]", f'durability = "{special}"')
    for name in ("special", "plain"):
        place.client.create_bucket(Bucket=name)
    found = {name: len(syncs(place, tmp_path, name, random.bytes(1000))) for name in ("special", "plain")}
    expected = {"strict": 2, "relaxed": 0}
    assert found == {"special": expected[special], "plain": expected[usual]}


@pytest.mark.parametrize("usual, special", [("strict", "relaxed"), ("relaxed", "strict")])
def test_uploads_go_to_the_disk_while_they_arrive_where_their_bucket_is_strict(start, tmp_path, random, usual, special):
    place = start(f'durability = "{usual}"', "[buckets.special]", f'durability = "{special}"')
    body, begun = random.bytes(20 * data.MIB), {}
    for name in ("special", "plain"):
        place.client.create_bucket(Bucket=name)
        upload = place.client.create_multipart_upload(Bucket=name, Key="parts")["UploadId"]
        for form, send in (("whole", lambda: place.client.put_object(Bucket=name, Key="k", Body=body)),
                           ("part", lambda: place.client.upload_part(Bucket=name, Key="parts", UploadId=upload, PartNumber=1, Body=body))):
            with trace.Trace(place.daemon, tmp_path / f"strace-{name}-{form}", calls="sync_file_range") as traced:
                send()
            begun[name, form] = any("SYNC_FILE_RANGE_WRITE" in event.words for event in traced.events)
    durability = {"special": special, "plain": usual}
    assert begun == {(name, form): durability[name] == "strict" for name, form in begun}


@pytest.mark.parametrize("usual, special", [("strict", "relaxed"), ("relaxed", "strict")])
def test_a_bucket_comes_and_goes_with_its_own_durability(start, tree, tmp_path, usual, special):
    place = start(f'durability = "{usual}"', "[buckets.special]", f'durability = "{special}"')
    found = {}
    for name in ("special", "plain"):
        for call in (place.client.create_bucket, place.client.delete_bucket):
            with trace.Trace(place.daemon, tmp_path / "strace") as traced:
                call(Bucket=name)
            syncs = [event for event in traced.events if event.name == "fsync" and f"<{tree}>" in event.words]
            found[name, call.__name__] = len(syncs)
    expected = {"strict": 1, "relaxed": 0}
    assert found == {(name, call): expected[kind] for name, kind in (("special", special), ("plain", usual)) for call in ("create_bucket", "delete_bucket")}


def test_a_bucket_that_refuses_links_follows_none_and_leaves_them_alone(start, tree):
    for name in ("closed", "open"):
        (tree / name / "dir").mkdir(parents=True)
        (tree / name / "dir" / "file").write_bytes(b"x")
        (tree / name / "link").symlink_to("dir/file")
        (tree / name / "linked").symlink_to("dir")
    place = start("[buckets.closed]", 'symlinks = "refuse"')
    client = place.client
    assert list(s3.listed(client, "open")) == ["dir/file", "link"] and list(s3.listed(client, "closed")) == ["dir/file"]
    for key in ("link", "linked/file"):
        assert s3.body(client, "open", key) == b"x"
        s3.refused(404, "NoSuchKey", client.get_object, Bucket="closed", Key=key)
        s3.refused(404, "404", client.head_object, Bucket="closed", Key=key)
        s3.refused(404, "NoSuchKey", client.copy_object, Bucket="open", Key="copy", CopySource=f"closed/{key}")
    s3.refused(409, "ObjectPathConflict", client.put_object, Bucket="closed", Key="link", Body=b"y")
    client.delete_object(Bucket="closed", Key="link")
    assert os.readlink(tree / "closed" / "link") == "dir/file"
    assert s3.body(client, "closed", "dir/file") == b"x"


# SIGHUP.

def reloads(daemon):
    """Sends the signal, and waits for what it does."""
    before = daemon.log.read_text().count("reloaded: keys")
    daemon.process.send_signal(signal.SIGHUP)
    server.wait_until(lambda: daemon.log.read_text().count("reloaded: keys") > before, "it is reloaded")


def test_a_reload_lets_rules_count_and_names_what_waits(start, tree, tmp_path, config, random):
    for name in ("one", "two"):
        (tree / name).mkdir()
    (tmp_path / "photos").mkdir()
    place = start("[buckets.one]", "read-only = true")
    client, log = place.client, place.daemon.log

    def reload(*lines):
        config(*lines)
        reloads(place.daemon)

    s3.refused(403, "AccessDenied", client.put_object, Bucket="one", Key="k", Body=b"x")
    reload("[buckets.two]", "read-only = true", "[buckets.one]", 'durability = "relaxed"')
    client.put_object(Bucket="one", Key="k", Body=b"x")
    s3.refused(403, "AccessDenied", client.put_object, Bucket="two", Key="k", Body=b"x")
    assert syncs(place, tmp_path, "one", b"x") == []
    assert "count after a restart only" not in log.read_text()
    reload(*mapped(tmp_path / "photos"), "[buckets.one]", 'hide = "x"')
    assert 'path, hide or symlinks of these buckets changed and count after a restart only; until then they stay read-only and strict where they were buckets="one, photos"' in log.read_text()
    for name in ("one", "two"):
        client.put_object(Bucket=name, Key="x", Body=b"x")
    assert names(client) == ["one", "two"]
    place.daemon.restart()
    client = s3.client(place.daemon.url)
    assert names(client) == ["one", "photos", "two"] and list(s3.listed(client, "one")) == ["dir/new", "dir/warm", "k"]


@pytest.mark.parametrize("now", [[], ["[buckets.photos]", 'path = "{}/other"'], ["[buckets.photos]", 'path = "{}/photos"', 'symlinks = "refuse"']],
                         ids=["gone", "elsewhere", "closed"])
def test_a_mapped_bucket_stays_read_only_until_it_is_served_as_is_said_now(start, tmp_path, config, now):
    (tmp_path / "photos").mkdir()
    place = start(*mapped(tmp_path / "photos", "read-only = true"))
    config(*(line.format(tmp_path) for line in now))
    reloads(place.daemon)
    s3.refused(403, "AccessDenied", place.client.put_object, Bucket="photos", Key="k", Body=b"x")
    assert 'until then they stay read-only and strict where they were buckets="photos"' in place.daemon.log.read_text()
    config(*mapped(tmp_path / "photos"))
    reloads(place.daemon)
    place.client.put_object(Bucket="photos", Key="k", Body=b"x")


def test_a_disk_that_is_gone_stops_no_reload(daemon, tree, tmp_path, config):
    """Also where the keys are kept in the state directory, which may lie in nothing that is served."""
    (tmp_path / "photos").mkdir()
    one = daemon(tree, "--config", config(*mapped(tmp_path / "photos")), keys=False)
    assert (one.state / "credentials").exists()
    (tmp_path / "photos").rmdir()
    reloads(one)
    assert "nothing is reloaded" not in one.log.read_text()


# In the mount.

@pytest.fixture(params=["passthrough", "plain"])
def mounting(request, start, tmp_path):
    """Starts a daemon that mounts, too."""
    point = tmp_path / "mount"
    point.mkdir()

    def begin(*lines, flags=()):
        place = start(*lines, flags=["--mount", point, "--mount-mode", request.param, *flags])
        place.point = point
        return place

    yield begin
    mountpoint.unmount(point)


@needs_mount
def test_the_mount_shows_mapped_buckets_beside_the_others(mounting, photos, tree, random):
    (photos / "old").write_bytes(b"from before")
    (tree / "photos").mkdir()
    (tree / "photos" / "shadowed").write_bytes(b"x")
    place = mounting(*mapped(photos), flags=["--mount-ttl", "3600s"])
    client, point = place.client, place.point
    client.create_bucket(Bucket="plain")
    assert sorted(os.listdir(point)) == ["photos", "plain"]
    assert os.listdir(point / "photos") == ["old"] and (point / "photos" / "old").read_bytes() == b"from before"
    with os.scandir(point) as entries:
        numbers = {entry.name: (entry.inode(), entry.stat().st_ino) for entry in entries}
    assert len({number for pair in numbers.values() for number in pair}) == 2, numbers
    body = random.bytes(100_000)
    (point / "photos" / "dir").mkdir()
    (point / "photos" / "dir" / "new").write_bytes(body)
    assert s3.body(client, "photos", "dir/new") == body == (photos / "dir/new").read_bytes()
    client.put_object(Bucket="photos", Key="dir/new", Body=b"by S3")
    assert (point / "photos" / "dir" / "new").read_bytes() == b"by S3"
    client.put_object(Bucket="photos", Key="dir/another", Body=b"by S3")
    assert sorted(os.listdir(point / "photos" / "dir")) == ["another", "new"]
    server.wait_until(lambda: "heard of at once" in place.daemon.log.read_text(), "the watcher has looked at it")
    assert (point / "photos" / "old").stat().st_size == 11
    (photos / "old").write_bytes(b"by a direct writer")
    server.wait_until(lambda: (point / "photos" / "old").stat().st_size == 18, "the mount shows it")
    os.setxattr(point / "photos" / "old", "user.a", b"b")
    assert os.getxattr(photos / "old", "user.a") == b"b"


@needs_mount
def test_a_mapped_bucket_is_neither_renamed_nor_removed_in_the_mount(mounting, photos):
    place = mounting(*mapped(photos))
    point = place.point
    (point / "plain").mkdir()
    (point / "plain" / "k").write_bytes(b"x")
    refused(errno.EBUSY, os.rmdir, point / "photos")
    refused(errno.EBUSY, os.rename, point / "photos", point / "other")
    refused(errno.EEXIST, os.mkdir, point / "photos")
    shutil.move(point / "plain" / "k", point / "photos" / "k")
    assert (photos / "k").read_bytes() == b"x" and os.listdir(point / "plain") == []
    assert s3.etag(place.client, "photos", "k")


@needs_mount
def test_a_mapped_bucket_that_is_gone_fails_in_the_mount_and_the_others_are_listed(mounting, tmp_path, tree):
    folder = tmp_path / "away" / "photos"
    folder.mkdir(parents=True)
    (tree / "plain").mkdir()
    place = mounting(*mapped(folder), flags=["--mount-ttl", "0s"])
    assert sorted(os.listdir(place.point)) == ["photos", "plain"]
    os.rename(folder, tmp_path / "aside")
    assert sorted(os.listdir(place.point)) == ["photos", "plain"]
    refused(errno.EIO, os.listdir, place.point / "photos")
    assert os.listdir(place.point / "plain") == []


@needs_mount
def test_a_read_only_bucket_is_so_in_the_mount(mounting, tree):
    for name in ("fixed", "plain"):
        (tree / name / "dir").mkdir(parents=True)
        (tree / name / "k").write_bytes(b"x")
    place = mounting("[buckets.fixed]", "read-only = true", "[buckets.coming]", "read-only = true")
    before, inside, other = tree_of(tree / "fixed"), place.point / "fixed", place.point / "plain"
    assert (inside / "k").read_bytes() == b"x" and sorted(os.listdir(inside)) == ["dir", "k"]
    for call, words in (
        (os.open, (inside / "k", os.O_WRONLY)), (os.open, (inside / "k", os.O_RDWR)), (os.open, (inside / "k", os.O_RDONLY | os.O_TRUNC)),
        (os.open, (inside / "new", os.O_WRONLY | os.O_CREAT)), (os.truncate, (inside / "k", 0)), (os.unlink, (inside / "k",)),
        (os.mkdir, (inside / "d",)), (os.rmdir, (inside / "dir",)), (os.symlink, ("k", inside / "link")), (os.mkfifo, (inside / "fifo",)),
        (os.link, (inside / "k", inside / "hard")), (os.rename, (inside / "k", inside / "moved")), (os.rename, (inside / "k", other / "moved")),
        (os.rename, (other / "k", inside / "moved")), (os.chmod, (inside / "k", 0o600)), (os.chown, (inside / "k", 1, 1)),
        (os.utime, (inside / "k", (1, 1))), (os.setxattr, (inside / "k", "user.a", b"b")), (os.chmod, (inside, 0o700)),
        (os.rmdir, (inside,)), (os.rename, (inside, place.point / "renamed")), (os.mkdir, (place.point / "coming",)),
    ):
        refused(errno.EROFS, call, *words)
    (other / "k").write_bytes(b"y")
    os.chmod(place.point, os.stat(place.point).st_mode)
    assert tree_of(tree / "fixed") == before


@needs_mount
def test_names_hidden_in_one_bucket_are_hidden_so_in_the_mount(mounting, tree):
    for name in ("one", "two"):
        (tree / name / "dir" / "@eaDir").mkdir(parents=True)
    place = mounting("[buckets.one]", 'hide = "@eaDir"')
    assert os.listdir(place.point / "one" / "dir") == [] and os.listdir(place.point / "two" / "dir") == ["@eaDir"]
    refused(errno.ENOENT, os.stat, place.point / "one" / "dir" / "@eaDir")
    refused(errno.EPERM, os.mkdir, place.point / "one" / "@eaDir")
    os.mkdir(place.point / "two" / "@eaDir")


@needs_mount
def test_a_bucket_in_the_mount_keeps_its_name_while_another_root_has_it(mounting, tree, tmp_path):
    for folder in (tree / "both", tmp_path / "second" / "both", tree / "other"):
        folder.mkdir(parents=True)
    point = mounting(flags=[tmp_path / "second"]).point
    refused(errno.EBUSY, os.rmdir, point / "both")
    refused(errno.EBUSY, os.rename, point / "both", point / "new-name")
    assert (tree / "both").is_dir() and sorted(os.listdir(point)) == ["both", "other"]
    os.rename(point / "other", point / "both")
    os.rmdir(tmp_path / "second" / "both")
    os.rename(point / "both", point / "new-name")
    assert os.listdir(point) == ["new-name"] == [name for name in os.listdir(tree) if not name.startswith(".")]


@needs_mount
def test_what_is_said_of_a_bucket_is_not_left_behind_by_a_rename(mounting, tree):
    special = {"private": 'hide = "private"', "linked": 'symlinks = "refuse"', "quick": 'durability = "relaxed"'}
    for name in [*special, "plain"]:
        (tree / name / "private").mkdir(parents=True)
    lines = [line for name, said in special.items() for line in (f"[buckets.{name}]", said, f"[buckets.{name}-coming]", said)]
    point = mounting("[buckets.as-all]", 'etag = "crc64"', *lines).point
    for name in special:
        refused(errno.EBUSY, os.rename, point / name, point / "other")
        refused(errno.EBUSY, os.rename, point / "plain", point / f"{name}-coming")
    assert os.listdir(point / "private") == [] and os.listdir(point / "plain") == ["private"]
    os.rename(point / "plain", point / "as-all")
    assert sorted(os.listdir(point)) == sorted([*special, "as-all"])
    os.mkdir(point / "quick-coming")
    os.rmdir(point / "quick-coming")


@needs_mount
def test_rmdir_removes_no_bucket_that_holds_a_hidden_name(mounting, tree):
    for name in ("own", "all"):
        (tree / name).mkdir()
    (tree / "own" / "private").mkdir()
    (tree / "own" / "private" / "doc").write_bytes(b"x")
    (tree / "all" / ".DS_Store").write_bytes(b"x")
    place = mounting('hide = ".DS_Store"', "[buckets.own]", 'hide = "private"')
    for name in ("own", "all"):
        assert os.listdir(place.point / name) == []
        refused(errno.ENOTEMPTY, os.rmdir, place.point / name)
    assert (tree / "own" / "private" / "doc").exists() and (tree / "all" / ".DS_Store").exists()
    (tree / "all" / ".DS_Store").unlink()
    os.rmdir(place.point / "all")
    assert not (tree / "all").exists()


@needs_mount
def test_a_mount_point_inside_a_mapped_bucket_is_refused(tree, tmp_path, config):
    (tmp_path / "photos" / "point").mkdir(parents=True)
    one = server.Daemon(tree, tmp_path / "one", "--config", config(*mapped(tmp_path / "photos")), "--mount", tmp_path / "photos" / "point")
    with pytest.raises(AssertionError, match="lies inside the served directory"):
        one.start()


@needs_mount
@pytest.mark.parametrize("mode", ["passthrough", "plain"])
def test_the_mount_shows_the_buckets_of_all_roots(daemon, tree, second, tmp_path, mode):
    for folder in (tree / "both", second / "both", second / "own", second / "other"):
        folder.mkdir()
        (folder / "where").write_text(folder.parent.name)
    point = tmp_path / "mount"
    point.mkdir()
    one = daemon(tree, second, "--mount", point, "--mount-mode", mode, "--mount-ttl", "3600s")
    try:
        client = s3.client(one.url)
        assert sorted(os.listdir(point)) == ["both", "other", "own"]
        assert [(point / name / "where").read_text() for name in ("both", "own")] == ["tree", "second"]
        with os.scandir(point) as entries:
            assert {entry.inode() for entry in entries} == {entry.stat().st_ino for entry in os.scandir(point)}
        (point / "new-one").mkdir()
        assert (tree / "new-one").is_dir()
        os.rename(point / "own", point / "renamed")
        assert (second / "renamed" / "where").exists() and names(client) == ["both", "new-one", "other", "renamed"]
        refused(errno.EXDEV, os.rename, point / "renamed", point / "both")
        refused(errno.ENOTEMPTY, os.rmdir, point / "renamed")
        (point / "renamed" / "where").unlink()
        (point / "renamed").rmdir()
        assert not (second / "renamed").exists()
        client.delete_object(Bucket="other", Key="where")
        client.delete_bucket(Bucket="other")
        assert sorted(os.listdir(point)) == ["both", "new-one"]
        server.wait_until(lambda: "heard of at once" in one.log.read_text(), "the watcher has looked at it")
        (second / "direct").mkdir()
        server.wait_until(lambda: (point / "direct").is_dir(), "the mount shows what a direct writer made")
        os.rmdir(second / "direct")
        server.wait_until(lambda: not (point / "direct").exists(), "and that it is gone")
        for number in range(200):
            (second / f"many-{number}").mkdir()
        server.wait_until(lambda: len(os.listdir(point)) == 202, "each is listed once")
        assert len(set(os.listdir(point))) == 202
    finally:
        one.stop()
        mountpoint.unmount(point)


@needs_mount
def test_the_mount_alone_knows_mapped_buckets_by_the_config(tree, photos, config, tmp_path):
    (photos / "k").write_bytes(b"x")
    (tree / "plain").mkdir()
    point = tmp_path / "mount"
    point.mkdir()
    one = command.start("mount", tree, point, "--config", config(*mapped(photos, "read-only = true")))
    try:
        server.wait_until(lambda: mountpoint.is_mounted(point), "it is mounted")
        assert sorted(os.listdir(point)) == ["photos", "plain"] and (point / "photos" / "k").read_bytes() == b"x"
        refused(errno.EROFS, os.unlink, point / "photos" / "k")
        (point / "plain" / "k").write_bytes(b"x")
    finally:
        one.terminate()
        one.communicate(timeout=20)
        mountpoint.unmount(point)
