"""`twintree import`: what boto3 saw of a tree through versitygw 1.8.0 or MinIO's filesystem mode it sees through twintree afterwards, and what the bytes do not bear out it does not."""

import base64
import json
import os

import pytest
from lib import command, data, gateways, s3, tree as trees

ADDED = "user.twintree"
BOTH = (gateways.VERSITYGW, gateways.MINIO)
WAYS = [(gateway, live) for gateway in BOTH for live in ((False, True) if gateway.binary.exists() else (False,))]
"""Each gateway's tree as it was recorded, and written by itself where it is at hand."""


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0].command}, {'by itself' if way[1] else 'recorded'}")
def written(request, tree):
    """A tree that a gateway wrote: the gateway, and what it showed of each object."""
    gateway, live = request.param
    return gateway, gateway.write(tree) if live else gateway.rebuild(tree)


def imported(gateway, tree, *flags, code=0):
    """Runs it; gives what it printed."""
    done = command.run("import", gateway.command, tree, *flags)
    assert done.returncode == code, done
    return done.stdout.decode()


def of_theirs(tree):
    """Everything in the tree but what is ours, times of change, link counts, and the mtime of the bucket, where our directory comes and goes."""
    return {path: (*seen[:4], *(() if path == str(tree / gateways.BUCKET) else (seen[4], seen[6])), tuple(pair for pair in seen[9] if not pair[0].startswith(ADDED)))
            for path, seen in trees.picture(tree, atime=False).items() if "/.twintree" not in path}


def served(daemon, tree):
    """boto3 on the tree, served by us."""
    return s3.client(daemon(tree, "--seal", "off", "--hide", ".sgwtmp").url)


def test_what_a_client_saw_before_it_sees_afterwards(written, tree, daemon):
    gateway, shown = written
    before = of_theirs(tree)
    said = imported(gateway, tree, "--yes")
    assert "\n  5 objects, 1 of them uploaded in parts: ETag and checksums\n  2 folders that are objects\n" in said and "have metadata or tags\n" in said, said
    assert of_theirs(tree) == before, "bytes, names, mtimes and what is the other's stay"
    client = served(daemon, tree)
    assert gateways.shown(client) == shown
    assert set(s3.listed(client, gateways.BUCKET)) == set(gateways.BODIES)
    assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == [gateways.BUCKET]
    for key, body in gateways.BODIES.items():
        assert s3.body(client, gateways.BUCKET, key) == body
        assert s3.etags_everywhere(client, gateways.BUCKET, key) == {shown[key]["ETag"].strip('"')}


def test_without_yes_nothing_changes(written, tree):
    gateway, _ = written
    trees.quieten(tree)
    before = trees.picture(tree)
    said = imported(gateway, tree)
    assert "Would be taken over:" in said and "\n  5 objects, 1 of them uploaded in parts" in said and "--yes" in said, said
    assert trees.picture(tree) == before


def test_an_etag_that_the_bytes_do_not_bear_out_is_not_taken(written, tree, daemon):
    gateway, _ = written
    top = tree / gateways.BUCKET
    (top / "changed").write_bytes(b"other bytes")
    with open(top / "multi", "r+b") as file:
        file.write(b"b")
    said = imported(gateway, tree, "--yes")
    assert "\n  3 objects, 0 of them uploaded in parts" in said and "\n  2 objects whose bytes do not bear out their ETag" in said, said
    client = served(daemon, tree)
    for key in ("changed", "multi"):
        assert s3.etag(client, gateways.BUCKET, key) == data.md5((top / key).read_bytes())
    assert client.head_object(Bucket=gateways.BUCKET, Key="multi")["Metadata"] == {"m": "p"}


def test_an_upload_in_parts_that_nothing_tells_of_is_not_taken_on_trust(written, tree):
    gateway, _ = written
    if gateway is gateways.VERSITYGW:
        os.removexattr(tree / gateways.BUCKET / "multi", "user.checksums")
    else:
        path = tree / ".minio.sys" / "buckets" / gateways.BUCKET / "multi" / "fs.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"parts": [{"number": 1, "size": 4}, {"number": 2, "size": 5242880}]}))
    assert "\n  1 objects whose bytes do not bear out their ETag" in imported(gateway, tree, "--yes")


def test_a_second_time_there_is_nothing_to_do_and_what_was_put_since_stays(written, tree, daemon):
    gateway, _ = written
    imported(gateway, tree, "--yes")
    one = daemon(tree)
    s3.client(one.url).put_object(Bucket=gateways.BUCKET, Key="plain", Body=b"new", Metadata={"new": "er"})
    one.stop()
    os.setxattr(tree / gateways.BUCKET / "plain", "user.etag", b'"5d41402abc4b2a76b9719d911017c592"')
    said = imported(gateway, tree, "--yes")
    assert "\n  7 objects have a record of twintree already" in said and "uploaded in parts" not in said, said
    head = s3.client(daemon(tree).url).head_object(Bucket=gateways.BUCKET, Key="plain")
    assert (head["ETag"], head["Metadata"]) == (f'"{data.md5(b"new")}"', {"new": "er"})


def test_stripped_it_is_the_others_again(written, tree):
    gateway, _ = written
    before = of_theirs(tree)
    imported(gateway, tree, "--yes")
    assert command.run("strip", tree, "--yes").returncode == 0
    assert of_theirs(tree) == before


HOSTILE = [b"", b"x", b'"5d41"', b"\xff" * 40, b'"' + b"g" * 32 + b'"', b"{" * 60_000]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_attributes_are_no_claims(tree, value):
    top = tree / "one"
    top.mkdir()
    (top / "file").write_bytes(b"hello")
    for name in ("user.etag", "user.checksums", "user.metadata", "user.X-Amz-Tagging"):
        try:
            os.setxattr(top / "file", name, value)
        except OSError:
            break  # so much has no room
    os.symlink("/etc", top / "link")
    os.mkfifo(top / "fifo")
    done = command.run("import", "versitygw", tree, "--yes")
    assert done.returncode == 0 and b"panicked" not in done.stderr, done
    assert "uploaded in parts" not in done.stdout.decode(), done


@pytest.mark.parametrize("value", [*HOSTILE, b'{"meta":{"etag":"5d41402abc4b2a76b9719d911017c592-2"},"parts":[' + b'{"size":18446744073709551615},' * 20_000 + b'{"size":0}]}',
                                   b'{"meta":{"etag":"5d41402abc4b2a76b9719d911017c592-2"},"parts":[{"size":-1},{"size":0},{"size":1e99}]}'])
def test_a_hostile_fs_json_is_no_claim(tree, tmp_path, value):
    (tree / "one").mkdir()
    for name in ("file", "linked", "fifo"):
        (tree / "one" / name).write_bytes(b"hello")
        (tree / ".minio.sys" / "buckets" / "one" / name).mkdir(parents=True)
    (tree / ".minio.sys" / "buckets" / "one" / "file" / "fs.json").write_bytes(value)
    (tmp_path / "outside").write_text('{"meta":{"etag":"5d41402abc4b2a76b9719d911017c592"}}')
    os.symlink(tmp_path / "outside", tree / ".minio.sys" / "buckets" / "one" / "linked" / "fs.json")
    os.mkfifo(tree / ".minio.sys" / "buckets" / "one" / "fifo" / "fs.json")
    done = command.run("import", "minio-fs", tree, "--yes", seconds=20)
    assert done.returncode == 0 and b"panicked" not in done.stderr and "uploaded in parts" not in done.stdout.decode(), done


@pytest.mark.parametrize("gateway", BOTH, ids=lambda gateway: gateway.command)
def test_what_is_no_directory_ends_with_a_sentence(tmp_path, gateway):
    done = command.run("import", gateway.command, tmp_path / "nowhere")
    assert done.returncode == 66 and done.stderr.decode() == f"twintree: {tmp_path}/nowhere is no directory\n"


# Buckets. As the two recorded it when a bucket got tags and a policy (versitygw: CORS rules and object lock, too).

OF_A_BUCKET = {
    "user.X-Amz-Tagging": b'{"of-who":"all","team":"a b"}',
    "user.policy": b'{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::one/*"]}]}',
    "user.cors": b'<CORSConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin></CORSRule></CORSConfiguration>',
    "user.bucket-lock": b'{"Enabled":true,"DefaultRetention":null,"CreatedAt":null}',
}
METADATA_BIN = base64.b64decode(
    "AQABAN4AFKROYW1lo29uZadDcmVhdGVkxwwFAAAAAGsN6F4cZL53q0xvY2tFbmFibGVkwrBQb2xpY3lDb25maWdKU09OxI97IlZlcnNpb24iOiIyMDEyLTEwLTE3IiwiU3RhdGVtZW50"
    "IjpbeyJFZmZlY3QiOiJBbGxvdyIsIlByaW5jaXBhbCI6eyJBV1MiOlsiKiJdfSwiQWN0aW9uIjpbInMzOkdldE9iamVjdCJdLCJSZXNvdXJjZSI6WyJhcm46YXdzOnMzOjo6b25lLyoi"
    "XX1dfbVOb3RpZmljYXRpb25Db25maWdYTUzEALJMaWZlY3ljbGVDb25maWdYTUzEALNPYmplY3RMb2NrQ29uZmlnWE1MxACzVmVyc2lvbmluZ0NvbmZpZ1hNTMQAs0VuY3J5cHRpb25D"
    "b25maWdYTUzEALBUYWdnaW5nQ29uZmlnWE1MxH48VGFnZ2luZz48VGFnU2V0PjxUYWc+PEtleT5vZi13aG88L0tleT48VmFsdWU+YWxsPC9WYWx1ZT48L1RhZz48VGFnPjxLZXk+dGVh"
    "bTwvS2V5PjxWYWx1ZT5hIGI8L1ZhbHVlPjwvVGFnPjwvVGFnU2V0PjwvVGFnZ2luZz6vUXVvdGFDb25maWdKU09OxAC0UmVwbGljYXRpb25Db25maWdYTUzEALdCdWNrZXRUYXJnZXRz"
    "Q29uZmlnSlNPTsQAu0J1Y2tldFRhcmdldHNDb25maWdNZXRhSlNPTsQAtVBvbGljeUNvbmZpZ1VwZGF0ZWRBdMcMBQAAAABrDeheHNadv7lPYmplY3RMb2NrQ29uZmlnVXBkYXRlZEF0"
    "xwwFAAAAAGsN6F4cZL53uUVuY3J5cHRpb25Db25maWdVcGRhdGVkQXTHDAUAAAAAaw3oXhxkvne2VGFnZ2luZ0NvbmZpZ1VwZGF0ZWRBdMcMBQAAAABrDeheHKC5JbRRdW90YUNvbmZp"
    "Z1VwZGF0ZWRBdMcMBQAAAABrDeheHGS+d7pSZXBsaWNhdGlvbkNvbmZpZ1VwZGF0ZWRBdMcMBQAAAABrDeheHGS+dw==")
SAID = {gateways.VERSITYGW.command: "policy, CORS rules, object lock", gateways.MINIO.command: "policy"}


@pytest.fixture(params=BOTH, ids=lambda gateway: gateway.command)
def set_up(request, tree):
    """A tree whose bucket got tags and a policy: the gateway that wrote it."""
    request.param.rebuild(tree)
    if request.param is gateways.VERSITYGW:
        for name, value in OF_A_BUCKET.items():
            os.setxattr(tree / gateways.BUCKET, name, value)
    else:
        (tree / ".minio.sys/buckets" / gateways.BUCKET / ".metadata.bin").write_bytes(METADATA_BIN)
    return request.param


def test_tags_of_a_bucket_come_along_and_what_has_no_effect_here_is_said(set_up, tree, daemon):
    for flags in ((), ("--yes",)):
        done = command.run("import", set_up.command, tree, *flags)
        assert done.returncode == 0, done
        said = done.stderr.decode()
        assert f"twintree: {tree}/{gateways.BUCKET}: not taken over, as nothing here acts on it: {SAID[set_up.command]}\n" == said
        assert "\n  1 buckets with tags\n" in done.stdout.decode() and "Of 1 bucket(s) not everything is taken over" in done.stdout.decode()
        assert (tree / gateways.BUCKET / ".twintree/bucket.json").exists() == bool(flags)
    client = served(daemon, tree)
    tags = client.get_bucket_tagging(Bucket=gateways.BUCKET)["TagSet"]
    assert sorted((tag["Key"], tag["Value"]) for tag in tags) == [("of-who", "all"), ("team", "a b")]
    with pytest.raises(client.exceptions.ClientError, match="NoSuchBucketPolicy"):
        client.get_bucket_policy(Bucket=gateways.BUCKET)


def test_tags_that_a_bucket_got_here_are_not_replaced(set_up, tree, daemon):
    imported(set_up, tree, "--yes")
    client = served(daemon, tree)
    client.put_bucket_tagging(Bucket=gateways.BUCKET, Tagging={"TagSet": [{"Key": "own", "Value": "later"}]})
    assert "buckets with tags" not in imported(set_up, tree, "--yes")
    assert client.get_bucket_tagging(Bucket=gateways.BUCKET)["TagSet"] == [{"Key": "own", "Value": "later"}]
