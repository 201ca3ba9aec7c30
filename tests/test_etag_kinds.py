"""`etag = "crc64"`: buckets whose ETags are no MD5s, beside one whose are. What S3 says of ETags holds for both."""

import base64
import hashlib
import os
import re
import subprocess
import types

import pytest
from lib import command, data, environment, s3, server
from lib.aftermath import crc64

OPAQUE = re.compile("[0-9a-f]{32}-1")


def client_of(one):
    """A client that names no checksum where none is asked for: objects then answer with their CRC64NVME."""
    return s3.client(one.url, request_checksum_calculation="when_required")


@pytest.fixture
def place(daemon, tree, tmp_path):
    """A daemon where objects get no MD5 but in `plain`, and both buckets."""
    config = tmp_path / "twintree.toml"
    config.write_text('etag = "crc64"\n[buckets.plain]\netag = "md5"\n')
    one = daemon(tree, "--config", config)
    client = client_of(one)
    for bucket in ("quick", "plain"):
        client.create_bucket(Bucket=bucket)
    return types.SimpleNamespace(daemon=one, client=client, tree=tree, config=config)


def is_of(tag, body):
    """Is it the CRC64NVME of this body, and random digits, in a form that no client takes for an MD5?"""
    crc = base64.b64decode(crc64(body)).hex()
    return bool(OPAQUE.fullmatch(tag)) and tag.startswith(crc)


def put(place, bucket, key, body, **named):
    return place.client.put_object(Bucket=bucket, Key=key, Body=body, **named)["ETag"].strip('"')


# PUT, GET, HEAD, LIST

@pytest.mark.parametrize("size", [0, 5, 300_000, 3 * data.MIB])
def test_each_put_has_an_etag_of_its_own_which_all_answers_show_and_a_restart_keeps(place, random, size):
    body = random.bytes(size)
    assert put(place, "plain", "k", body) == data.md5(body)
    first, tag = put(place, "quick", "k", body), put(place, "quick", "k", body)
    assert is_of(first, body) and is_of(tag, body) and first != tag, "of equal bytes"
    for start in ("first", "after a restart"):
        place.client = client_of(place.daemon)
        assert s3.etags_everywhere(place.client, "quick", "k") == {tag}, start
        assert s3.etags_everywhere(place.client, "plain", "k") == {data.md5(body)}, start
        head = place.client.head_object(Bucket="quick", Key="k", ChecksumMode="ENABLED")
        assert (head["ChecksumCRC64NVME"], head["ContentLength"]) == (crc64(body), size)
        assert s3.body(place.client, "quick", "k") == body
        attributes = place.client.get_object_attributes(Bucket="quick", Key="k", ObjectAttributes=["ETag", "ObjectSize"])
        assert attributes["ETag"] == tag
        place.daemon.restart()
    [row] = command.inventory(place.tree, "quick")
    assert (row["etag"], row["crc64nvme"], row["state"]) == (tag, crc64(body), "valid")
    told = command.run("inspect", place.tree / "quick" / "k").stdout.decode()
    assert f'"{tag}", a CRC64NVME and random bits, no MD5' in told


def test_an_object_keeps_its_etag_when_the_setting_changes(place, daemon, random):
    body = random.bytes(1000)
    tags = {bucket: put(place, bucket, "k", body) for bucket in ("quick", "plain")}
    place.daemon.stop()
    client = s3.client(daemon(place.tree, environment={"TWINTREE_ETAG": "md5"}).url)
    assert {bucket: s3.etag(client, bucket, "k") for bucket in tags} == tags
    assert client.put_object(Bucket="quick", Key="k", Body=body)["ETag"].strip('"') == data.md5(body)


def test_an_object_that_is_a_directory_has_the_md5_of_nothing(place):
    assert put(place, "quick", "dir/", b"") == s3.etag(place.client, "quick", "dir/")


# Conditions

def test_conditions_compare_such_etags(place, random):
    client, key = place.client, {"Bucket": "quick", "Key": "k"}
    old, tag = put(place, "quick", "k", random.bytes(10)), put(place, "quick", "k", random.bytes(10))
    s3.refused(412, "PreconditionFailed", client.put_object, **key, Body=b"x", IfMatch=old)
    s3.refused(412, "PreconditionFailed", client.get_object, **key, IfMatch=old)
    s3.refused(304, "304", client.head_object, **key, IfNoneMatch=tag)
    client.get_object(**key, IfMatch=tag)["Body"].read()
    now = put(place, "quick", "k", b"x", IfMatch=tag)
    s3.refused(412, "PreconditionFailed", client.put_object, **key, Body=b"x", IfMatch=tag)
    s3.refused(412, "PreconditionFailed", client.delete_object, **key, IfMatch=tag)
    client.delete_object(**key, IfMatch=now)
    s3.refused(404, "NoSuchKey", client.put_object, **key, Body=b"x", IfMatch=now)


# What a client says of the body

@pytest.mark.parametrize("size", [5, 3 * data.MIB])
def test_a_content_md5_is_verified(place, random, size):
    body = random.bytes(size)
    tag = put(place, "quick", "k", body, ContentMD5=base64.b64encode(hashlib.md5(body).digest()).decode())
    assert is_of(tag, body)
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    s3.refused(400, "BadDigest", place.client.put_object, Bucket="quick", Key="k", Body=random.bytes(size), ContentMD5=wrong)
    assert s3.etag(place.client, "quick", "k") == tag
    assert s3.body(place.client, "quick", "k") == body


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_a_checksum_is_verified_and_kept(place, random, algorithm):
    body = random.bytes(1000)
    tag = put(place, "quick", "k", body, ChecksumAlgorithm=algorithm)
    head = place.client.head_object(Bucket="quick", Key="k", ChecksumMode="ENABLED")
    assert is_of(tag, body) and head[f"Checksum{algorithm}"]
    wrong = {f"Checksum{algorithm}": base64.b64encode(bytes(len(base64.b64decode(head[f"Checksum{algorithm}"])))).decode()}
    s3.refused(400, "BadDigest", place.client.put_object, Bucket="quick", Key="k", Body=body, **wrong)


# Copies and multipart uploads

@pytest.mark.parametrize("source", ["quick", "plain"])
def test_a_copy_has_an_etag_of_its_buckets_kind(place, random, source):
    body, client = random.bytes(70_000), place.client
    before = put(place, source, "k", body, Metadata={"colour": "green"})
    copy = {"CopySource": {"Bucket": source, "Key": "k"}}
    for bucket in ("quick", "plain"):
        copied = client.copy_object(Bucket=bucket, Key="copy", **copy)["CopyObjectResult"]["ETag"].strip('"')
        assert s3.etags_everywhere(client, bucket, "copy") == {copied}
        assert is_of(copied, body) and copied != before if bucket == "quick" else copied == data.md5(body)
        assert client.head_object(Bucket=bucket, Key="copy", ChecksumMode="ENABLED")["ChecksumCRC64NVME"] == crc64(body)
    client.copy_object(Bucket="plain", Key="if", CopySourceIfMatch=before, **copy)
    s3.refused(412, "PreconditionFailed", client.copy_object, Bucket="plain", Key="if", CopySourceIfNoneMatch=before, **copy)
    itself = client.copy_object(Bucket=source, Key="k", MetadataDirective="REPLACE", **copy)["CopyObjectResult"]["ETag"].strip('"')
    assert itself == before == s3.etag(client, source, "k"), "only what is said of it has changed"


def test_a_multipart_object_has_the_md5_of_its_parts_md5s(place, random):
    client, key = place.client, {"Bucket": "quick", "Key": "k"}
    bodies = [random.bytes(5 * data.MIB), random.bytes(1000)]
    upload = {**key, "UploadId": client.create_multipart_upload(**key)["UploadId"]}
    parts = []
    for number, body in enumerate(bodies, 1):
        tag = client.upload_part(**upload, PartNumber=number, Body=body)["ETag"]
        assert tag.strip('"') == data.md5(body)
        parts.append({"PartNumber": number, "ETag": tag})
    whole = client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})["ETag"].strip('"')
    assert s3.etags_everywhere(client, "quick", "k") == {data.multipart_etag(bodies)} == {whole}
    copied = client.copy_object(Bucket="quick", Key="copy", CopySource={"Bucket": "quick", "Key": "k"})["CopyObjectResult"]["ETag"]
    assert is_of(copied.strip('"'), b"".join(bodies))


# Files that others wrote

@pytest.mark.needs("xattrs")
def test_what_somebody_writes_directly_is_sealed_without_an_md5(place, random):
    body, changed = random.bytes(50_000), random.bytes(50_000)
    tag = put(place, "quick", "k", body)
    path = place.tree / "quick" / "k"
    path.write_bytes(changed)
    derived = s3.etag(place.client, "quick", "k")
    assert derived != tag and OPAQUE.fullmatch(derived) and not is_of(derived, changed)
    done = command.seal(place.tree, "quick", "--config", place.config)
    assert (done["sealed"], done["failed"]) == (1, 0), done
    sealed = s3.etag(place.client, "quick", "k")
    assert is_of(sealed, changed)
    assert s3.body(place.client, "quick", "k", IfMatch=f'"{derived}"') == changed, "who read it before goes on"
    command.grows_old(path)
    path.chmod(0o600)
    place.daemon.restart()
    client = s3.client(place.daemon.url)
    assert s3.etag(client, "quick", "k") != sealed
    assert command.seal(place.tree, "quick", "--etag", "md5")["sealed"] == 1
    assert s3.etags_everywhere(client, "quick", "k") == {sealed}, "the content is what its CRC says"


@pytest.mark.needs("xattrs")
def test_a_running_daemon_seals_without_an_md5(daemon, tree, random):
    (tree / "quick").mkdir()
    one = daemon(tree, "--etag", "crc64", "--seal", "all", "--seal-after", "0s")
    client, body = s3.client(one.url), random.bytes(1000)
    (tree / "quick" / "k").write_bytes(body)
    tag = server.wait_until(lambda: is_of(tag := s3.etag(client, "quick", "k"), body) and tag, "it is sealed")
    assert s3.etags_everywhere(client, "quick", "k") == {tag}


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse")
def test_a_rename_in_the_mount_keeps_it_and_what_is_written_there_is_sealed_without_an_md5(daemon, tree, tmp_path, random):
    mount = tmp_path / "mount"
    mount.mkdir()
    one = daemon(tree, "--etag", "crc64", "--mount", mount, "--seal-after", "0s")
    client, body = s3.client(one.url), random.bytes(1000)
    client.create_bucket(Bucket="quick")
    tag = client.put_object(Bucket="quick", Key="k", Body=body)["ETag"].strip('"')
    os.rename(mount / "quick" / "k", mount / "quick" / "renamed")
    assert s3.etags_everywhere(client, "quick", "renamed") == {tag}
    assert (mount / "quick" / "renamed").read_bytes() == body
    changed = random.bytes(1000)
    (mount / "quick" / "renamed").write_bytes(changed)
    assert s3.etag(client, "quick", "renamed") != tag
    server.wait_until(lambda: is_of(s3.etag(client, "quick", "renamed"), changed), "it is sealed")


# Clients

@pytest.fixture
def run(place, tmp_path):
    """aws-cli or rclone (its remote is `tt`), by name; gives their output."""
    conf = tmp_path / "rclone.conf"
    conf.write_text(f"[tt]\ntype = s3\nprovider = Other\naccess_key_id = {server.ACCESS_KEY}\n"
                    f"secret_access_key = {server.SECRET_KEY}\nendpoint = {place.daemon.url}\nregion = us-east-1\n")
    variables = dict(environment.variables(), HOME=str(tmp_path), AWS_ACCESS_KEY_ID=server.ACCESS_KEY, AWS_DEFAULT_REGION="us-east-1",
                     AWS_SECRET_ACCESS_KEY=server.SECRET_KEY, AWS_EC2_METADATA_DISABLED="true", RCLONE_CONFIG=str(conf))
    first = {"aws": ["--endpoint-url", place.daemon.url], "rclone": ["--retries", "1", "--s3-upload-cutoff", "8M", "--s3-chunk-size", "5M", "-v"]}

    def run(name, *words):
        command = [environment.python().parent / name, *first[name], *words]
        done = subprocess.run([str(word) for word in command], env=variables, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    return run


@pytest.fixture
def files(tmp_path, random):
    """Files to upload, one of them in several parts, by name."""
    bodies = {"a.txt": random.bytes(10), "dir/b.bin": random.bytes(70_000), "empty": b"", "large.bin": random.bytes(9 * data.MIB)}
    for name, body in bodies.items():
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return tmp_path / "files", bodies


def contents(folder):
    """Every file under a folder that is not ours: {name: body}."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and ".twintree" not in path.parts}


def test_rclone_takes_such_etags_for_no_md5s(run, place, files, tmp_path):
    folder, bodies = files
    run("rclone", "copy", "--checksum", folder, "tt:quick")
    assert contents(place.tree / "quick") == bodies
    assert "Copied" not in run("rclone", "copy", "--checksum", folder, "tt:quick"), "there is nothing to do"
    assert "0 differences found" in run("rclone", "check", folder, "tt:quick")
    assert "0 differences found" in run("rclone", "check", "--download", folder, "tt:quick")
    run("rclone", "sync", "--checksum", "tt:quick", "tt:plain")
    run("rclone", "sync", "--checksum", "tt:plain", tmp_path / "back")
    assert contents(place.tree / "plain") == contents(tmp_path / "back") == bodies
    tags = {key: entry["ETag"].strip('"') for key, entry in s3.listed(place.client, "quick").items()}
    assert all(is_of(tags[key], bodies[key]) for key in ("a.txt", "dir/b.bin", "empty"))


def test_aws_cli_copies_and_syncs(run, place, files, tmp_path):
    folder, bodies = files
    run("aws", "s3", "sync", folder, "s3://quick", "--no-progress")
    assert contents(place.tree / "quick") == bodies
    assert run("aws", "s3", "sync", folder, "s3://quick", "--no-progress").strip() == "", "a second sync has nothing to do"
    run("aws", "s3", "cp", "s3://quick/dir/b.bin", "s3://plain/b.bin", "--no-progress")
    assert s3.etag(place.client, "plain", "b.bin") == data.md5(bodies["dir/b.bin"])
    run("aws", "s3", "sync", "s3://quick", tmp_path / "back", "--no-progress")
    assert contents(tmp_path / "back") == bodies
