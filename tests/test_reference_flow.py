"""The reference flow of every S3 tutorial, row by row, as an application sees it: over HTTP and over TLS."""

import datetime
import os
import pathlib
import socket
import subprocess
import sys
import time
import types
import urllib.parse


import boto3
import boto3.s3.transfer
import botocore.exceptions
import pytest
from lib import data, environment, s3, tools, wire

HELLO = b"Hello from a tree of plain files.\n"


@pytest.fixture(params=["http", "https"])
def flow(request, daemon, tree, authority, tmp_path):
    """A daemon, a client, a bucket and a file, over either protocol."""
    tls = request.param == "https"
    flags = ["--tls-cert", authority.certificate, "--tls-key", authority.key] if tls else []
    one = daemon(tree, *flags)
    hello = tmp_path / "hello.txt"
    hello.write_bytes(HELLO)
    verify = authority.ca if tls else None
    client = s3.client(one.url, verify=verify)
    client.create_bucket(Bucket="my-bucket")
    return types.SimpleNamespace(daemon=one, url=one.url, tree=tree, client=client, verify=verify, hello=hello,
                                 bucket="my-bucket", directory=tree / "my-bucket", tmp=tmp_path)


def curl(flow, *words, **options):
    """curl with the authority of the test; gives (status, body)."""
    tools.need("curl")
    trust = ["--cacert", flow.verify] if flow.verify else []
    out = flow.tmp / "curl-out"
    out.unlink(missing_ok=True)
    done = subprocess.run(["curl", "-sS", *trust, "-o", str(out), "-w", "%{http_code}", *map(str, words)],
                          capture_output=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    return int(done.stdout), out.read_bytes() if out.exists() else b""


# Row 1: the region is the client's business.

@pytest.mark.parametrize("region", ["us-east-1", "auto", "xx-any-9"])
def test_any_region_verifies(flow, region):
    client = s3.client(flow.url, verify=flow.verify, region=region)
    client.put_object(Bucket=flow.bucket, Key="k", Body=HELLO)
    assert s3.body(client, flow.bucket, "k") == HELLO


# Row 2: create, and create again.

def test_create_bucket_makes_a_directory_and_says_where(flow):
    answer = flow.client.create_bucket(Bucket="another-bucket")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert answer["Location"] == "/another-bucket"
    assert (flow.tree / "another-bucket").is_dir()


def test_create_bucket_again_raises_bucket_already_owned_by_you(flow):
    with pytest.raises(flow.client.exceptions.BucketAlreadyOwnedByYou) as caught:
        flow.client.create_bucket(Bucket=flow.bucket)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 409


def test_a_location_constraint_is_taken_and_given_back(flow):
    client = s3.client(flow.url, verify=flow.verify, region="eu-central-1")
    client.create_bucket(Bucket="far-away", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    assert client.get_bucket_location(Bucket="far-away")["LocationConstraint"] == "eu-central-1"
    assert flow.client.get_bucket_location(Bucket=flow.bucket)["LocationConstraint"] in (None, "")


# Row 3: upload_file.

def test_upload_file_makes_a_plain_file_with_the_right_etag(flow):
    flow.client.upload_file(str(flow.hello), flow.bucket, "hello.txt")
    assert (flow.directory / "hello.txt").read_bytes() == HELLO
    head = flow.client.head_object(Bucket=flow.bucket, Key="hello.txt")
    assert head["ETag"] == f'"{data.md5(HELLO)}"'
    assert head["ContentLength"] == len(HELLO)
    assert head["ContentType"] == "binary/octet-stream"


def test_put_object_echoes_the_checksum_that_the_client_sent(flow):
    answer = flow.client.put_object(Bucket=flow.bucket, Key="k", Body=HELLO, ChecksumAlgorithm="CRC32")
    assert answer["ETag"] == f'"{data.md5(HELLO)}"'
    assert answer["ChecksumCRC32"] == wire.crc32(HELLO)


def test_upload_file_of_20_mib_comes_back_whole(flow, random):
    body = random.bytes(20 * data.MIB + 7)
    source = flow.tmp / "large"
    source.write_bytes(body)
    flow.client.upload_file(str(source), flow.bucket, "deep/er/large")
    assert (flow.directory / "deep" / "er" / "large").read_bytes() == body
    parts = [body[start:start + 8 * data.MIB] for start in range(0, len(body), 8 * data.MIB)]
    assert s3.etag(flow.client, flow.bucket, "deep/er/large") == data.multipart_etag(parts)
    target = flow.tmp / "back"
    flow.client.download_file(flow.bucket, "deep/er/large", str(target))
    assert target.read_bytes() == body


# Row 4: download_file.

def test_download_file_brings_the_bytes(flow):
    (flow.directory / "there.txt").write_bytes(HELLO)
    target = flow.tmp / "back.txt"
    flow.client.download_file(flow.bucket, "there.txt", str(target))
    assert target.read_bytes() == HELLO


def test_an_empty_object_goes_up_and_comes_down(flow):
    empty = flow.tmp / "empty"
    empty.write_bytes(b"")
    flow.client.upload_file(str(empty), flow.bucket, "empty")
    flow.client.download_file(flow.bucket, "empty", str(flow.tmp / "back"))
    assert (flow.tmp / "back").read_bytes() == b""
    assert s3.etag(flow.client, flow.bucket, "empty") == data.md5(b"")


def test_what_follows_an_empty_put_or_a_refused_one_does_not_wait(flow):
    """botocore says `Expect: 100-continue` for any body, and on a kept connection it never recovers from an answer without 100."""
    started = time.monotonic()
    for turn in range(3):
        flow.client.put_object(Bucket=flow.bucket, Key=f"empty-{turn}", Body=b"")
        flow.client.put_object(Bucket=flow.bucket, Key=f"full-{turn}", Body=HELLO)
        for body in (b"", HELLO):
            s3.refused(412, "PreconditionFailed", flow.client.put_object, Bucket=flow.bucket, Key=f"full-{turn}", Body=body, IfNoneMatch="*")
            s3.refused(404, "NoSuchBucket", flow.client.put_object, Bucket="no-such-bucket", Key="k", Body=body)
    flow.client.put_object(Bucket=flow.bucket, Key="last", Body=HELLO)
    assert time.monotonic() - started < 10


def test_without_response_checksums_a_download_needs_no_head(flow, random):
    client = s3.client(flow.url, verify=flow.verify, response_checksum_validation="when_required")
    body = random.bytes(9 * data.MIB)
    for key, content in (("full", body), ("empty", b"")):
        client.put_object(Bucket=flow.bucket, Key=key, Body=content)
        client.download_file(flow.bucket, key, str(flow.tmp / key))
        assert (flow.tmp / key).read_bytes() == content


# Row 5: listing.

def test_an_empty_bucket_lists_without_contents(flow):
    answer = flow.client.list_objects_v2(Bucket=flow.bucket)
    assert answer.get("Contents", []) == []
    assert "Contents" not in answer
    assert answer["KeyCount"] == 0


def test_listed_keys_come_back_as_they_went_in(flow):
    keys = sorted(["hello.txt", "a b", "a+b", "a%20b", "a&b", "<x>", "한글 a+b.txt", "dir/under", "ü"], key=str.encode)
    for key in keys:
        flow.client.put_object(Bucket=flow.bucket, Key=key, Body=key.encode())
    answer = flow.client.list_objects_v2(Bucket=flow.bucket)
    assert [(entry["Key"], entry["Size"]) for entry in answer["Contents"]] == [(key, len(key.encode())) for key in keys]
    for key in keys:
        assert s3.body(flow.client, flow.bucket, key) == key.encode()


# Row 6: deleting.

def test_delete_object_is_204_whether_or_not_it_was_there(flow):
    flow.client.upload_file(str(flow.hello), flow.bucket, "hello.txt")
    for _ in range(2):
        answer = flow.client.delete_object(Bucket=flow.bucket, Key="hello.txt")
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert not (flow.directory / "hello.txt").exists()
    s3.refused(404, "NoSuchKey", flow.client.get_object, Bucket=flow.bucket, Key="hello.txt")


def test_delete_bucket_refuses_what_is_not_empty_and_what_is_not_there(flow):
    flow.client.upload_file(str(flow.hello), flow.bucket, "a/b/hello.txt")
    s3.refused(409, "BucketNotEmpty", flow.client.delete_bucket, Bucket=flow.bucket)
    flow.client.delete_object(Bucket=flow.bucket, Key="a/b/hello.txt")
    flow.client.delete_bucket(Bucket=flow.bucket)
    assert not flow.directory.exists()
    s3.refused(404, "NoSuchBucket", flow.client.delete_bucket, Bucket=flow.bucket)
    s3.refused(404, "NoSuchBucket", flow.client.list_objects_v2, Bucket=flow.bucket)


def test_a_bucket_with_a_pending_upload_and_empty_folders_is_empty(flow):
    flow.client.create_multipart_upload(Bucket=flow.bucket, Key="never")
    (flow.directory / "left" / "over").mkdir(parents=True)
    flow.client.delete_bucket(Bucket=flow.bucket)
    assert not flow.directory.exists()


# Rows 7 and 8: presigned URLs, with s3v4 and with what boto3 does by default.

@pytest.fixture(params=["s3v4", None], ids=["s3v4", "default"])
def presigner(request, flow):
    """A client that presigns, and proof of which signature it makes."""
    client = s3.client(flow.url, verify=flow.verify, signature=request.param)
    url = client.generate_presigned_url("get_object", Params={"Bucket": flow.bucket, "Key": "x"})
    assert ("AWSAccessKeyId=" in url) == (request.param is None)
    return client


def test_a_presigned_get_works_in_curl(flow, presigner, random):
    body = random.bytes(100_000)
    flow.client.put_object(Bucket=flow.bucket, Key="a b+c.bin", Body=body)
    url = presigner.generate_presigned_url("get_object", Params={"Bucket": flow.bucket, "Key": "a b+c.bin"}, ExpiresIn=600)
    assert curl(flow, url) == (200, body)
    assert curl(flow, "-H", "Range: bytes=10-19", url) == (206, body[10:20])


def test_a_presigned_get_overrides_response_headers(flow, presigner):
    flow.client.put_object(Bucket=flow.bucket, Key="k", Body=HELLO)
    wanted = {"ResponseContentType": "text/x-special", "ResponseContentDisposition": 'attachment; filename="n.txt"',
              "ResponseCacheControl": "no-store"}
    url = presigner.generate_presigned_url("get_object", Params={"Bucket": flow.bucket, "Key": "k", **wanted})
    headers = flow.tmp / "headers"
    assert curl(flow, "-D", headers, url) == (200, HELLO)
    got = headers.read_text().lower()
    assert "content-type: text/x-special" in got
    assert 'content-disposition: attachment; filename="n.txt"' in got
    assert "cache-control: no-store" in got


def test_a_presigned_get_ends_with_its_time(flow, presigner):
    flow.client.put_object(Bucket=flow.bucket, Key="k", Body=HELLO)
    if presigner.meta.config.signature_version == "s3v4":
        past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=601)
        host = urllib.parse.urlsplit(flow.url).netloc
        url = flow.url + wire.Signer(when=past).presign("GET", f"/{flow.bucket}/k", host, 600)
    else:
        url = presigner.generate_presigned_url("get_object", Params={"Bucket": flow.bucket, "Key": "k"}, ExpiresIn=-5)
    status, body = curl(flow, url)
    assert (status, b"<Code>AccessDenied</Code>" in body, b"expired" in body) == (403, True, True), body


def test_a_tampered_presigned_url_is_refused(flow, presigner):
    flow.client.put_object(Bucket=flow.bucket, Key="k", Body=HELLO)
    flow.client.put_object(Bucket=flow.bucket, Key="other", Body=HELLO)
    url = presigner.generate_presigned_url("get_object", Params={"Bucket": flow.bucket, "Key": "k"})
    status, body = curl(flow, url.replace("/k?", "/other?"))
    assert (status, b"<Code>SignatureDoesNotMatch</Code>" in body) == (403, True), body
    status, body = curl(flow, "-X", "DELETE", url)
    assert (status, b"<Code>SignatureDoesNotMatch</Code>" in body) == (403, True), body
    assert s3.body(flow.client, flow.bucket, "k") == HELLO


@pytest.mark.parametrize("form", ["--upload-file", "--data-binary", "-T -"])
def test_a_presigned_put_works_in_curl(flow, presigner, form):
    url = presigner.generate_presigned_url("put_object", Params={"Bucket": flow.bucket, "Key": "put.txt"}, ExpiresIn=600)
    if form == "--upload-file":
        status, body = curl(flow, "-X", "PUT", "--upload-file", flow.hello, url)
    elif form == "--data-binary":
        # curl adds a form's Content-Type by itself; SigV2 signs Content-Type, so there it must not be sent
        quiet = ["-H", "Content-Type:"] if "AWSAccessKeyId=" in url else []
        status, body = curl(flow, "-X", "PUT", *quiet, "--data-binary", f"@{flow.hello}", url)
    else:
        with open(flow.hello, "rb") as source:
            status, body = curl(flow, "-T", "-", url, stdin=source)
    assert (status, body) == (200, b"")
    assert (flow.directory / "put.txt").read_bytes() == HELLO
    head = flow.client.head_object(Bucket=flow.bucket, Key="put.txt")
    assert head["ETag"] == f'"{data.md5(HELLO)}"'
    if form == "--data-binary" and "AWSAccessKeyId=" not in url:
        assert head["ContentType"] == "application/x-www-form-urlencoded"


# Rows 9 and 10: multipart by hand, and its abort.

def test_a_manual_multipart_upload_of_5_mib_parts(flow, random):
    parts = [random.bytes(5 * data.MIB), random.bytes(5 * data.MIB), random.bytes(1234)]
    upload = flow.client.create_multipart_upload(Bucket=flow.bucket, Key="multi")["UploadId"]
    done = {}
    for number in (3, 1, 2):
        answer = flow.client.upload_part(Bucket=flow.bucket, Key="multi", UploadId=upload, PartNumber=number, Body=parts[number - 1])
        assert answer["ETag"] == f'"{data.md5(parts[number - 1])}"'
        done[number] = {"ETag": answer["ETag"], "PartNumber": number}
    s3.refused(404, "NoSuchKey", flow.client.get_object, Bucket=flow.bucket, Key="multi")
    whole = {"Parts": [done[number] for number in (1, 2, 3)]}
    answer = flow.client.complete_multipart_upload(Bucket=flow.bucket, Key="multi", UploadId=upload, MultipartUpload=whole)
    assert answer["ETag"] == f'"{data.multipart_etag(parts)}"'
    assert (flow.directory / "multi").read_bytes() == b"".join(parts)
    again = flow.client.complete_multipart_upload(Bucket=flow.bucket, Key="multi", UploadId=upload, MultipartUpload=whole)
    assert again["ETag"] == answer["ETag"], "a repeated Complete is answered as the first was"


def test_abort_frees_the_parts_and_a_second_abort_finds_nothing(flow, random):
    upload = flow.client.create_multipart_upload(Bucket=flow.bucket, Key="gone")["UploadId"]
    flow.client.upload_part(Bucket=flow.bucket, Key="gone", UploadId=upload, PartNumber=1, Body=random.bytes(5 * data.MIB))
    answer = flow.client.abort_multipart_upload(Bucket=flow.bucket, Key="gone", UploadId=upload)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    s3.refused(404, "NoSuchUpload", flow.client.abort_multipart_upload, Bucket=flow.bucket, Key="gone", UploadId=upload)
    uploads = flow.directory / ".twintree" / "uploads"
    assert not uploads.exists() or not any(uploads.iterdir()), "nothing of it is left on disk"


# Rows 11 to 13: what goes wrong, and what the application is told.

def test_a_wrong_secret_is_told_what_was_signed(flow):
    client = s3.client(flow.url, verify=flow.verify, secret_key="wrong")
    error = s3.refused(403, "SignatureDoesNotMatch", client.list_objects_v2, Bucket=flow.bucket)["Error"]
    assert {"AWSAccessKeyId", "StringToSign", "CanonicalRequest", "SignatureProvided"} <= set(error)


def test_an_unknown_key_and_no_key_are_refused(flow):
    client = s3.client(flow.url, verify=flow.verify, access_key="NOBODY00000000000000")
    s3.refused(403, "InvalidAccessKeyId", client.list_objects_v2, Bucket=flow.bucket)
    anonymous = boto3.client("s3", endpoint_url=flow.url, region_name="us-east-1", verify=flow.verify,
                             config=botocore.client.Config(signature_version=botocore.UNSIGNED))
    s3.refused(403, "AccessDenied", anonymous.list_objects_v2, Bucket=flow.bucket)
    s3.refused(403, "AccessDenied", anonymous.get_object, Bucket=flow.bucket, Key="hello.txt")
    s3.refused(403, "AccessDenied", anonymous.put_object, Bucket=flow.bucket, Key="hello.txt", Body=HELLO)


def test_a_daemon_that_left_is_a_connection_error(flow):
    flow.daemon.stop()
    with pytest.raises(botocore.exceptions.EndpointConnectionError):
        flow.client.list_buckets()


# Row 14: path style by default, virtual-host style when asked.

def test_virtual_host_style_with_a_domain(daemon, tree, monkeypatch):
    one = daemon(tree, "--domain", "s3.test")
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **named: real(
        "127.0.0.1" if str(host).endswith("s3.test") else host, *rest, **named))
    client = s3.client(f"http://s3.test:{one.port}", style="virtual")
    client.create_bucket(Bucket="by-name")
    client.put_object(Bucket="by-name", Key="dir/k", Body=HELLO)
    assert (tree / "by-name" / "dir" / "k").read_bytes() == HELLO
    assert s3.body(client, "by-name", "dir/k") == HELLO
    assert list(s3.listed(client, "by-name")) == ["dir/k"]
    by_path = s3.client(one.url)
    assert s3.body(by_path, "by-name", "dir/k") == HELLO


# Row 15: the helpers of the appendix.

def test_the_upload_and_download_helpers(flow, random):
    def upload(path, bucket, key):
        try:
            flow.client.upload_file(path, bucket, key)
        except boto3.exceptions.S3UploadFailedError:
            return False
        return True

    body = random.bytes(70_000)
    source = flow.tmp / "한글 a+b.txt"
    source.write_bytes(body)
    assert upload(str(source), flow.bucket, source.name)
    assert not upload(str(source), "no-such-bucket", source.name)
    assert (flow.directory / source.name).read_bytes() == body
    flow.client.download_file(flow.bucket, source.name, str(flow.tmp / "back"))
    assert (flow.tmp / "back").read_bytes() == body


def test_large_copy_by_the_transfer_manager(flow, random):
    body = random.bytes(9 * data.MIB)
    flow.client.put_object(Bucket=flow.bucket, Key="source", Body=body, Metadata={"colour": "green"})
    flow.client.copy({"Bucket": flow.bucket, "Key": "source"}, flow.bucket, "target")
    assert s3.body(flow.client, flow.bucket, "target") == body
    if "TWINTREE_OLD_BOTO3" not in os.environ:  # older ones forget it on the way
        assert flow.client.head_object(Bucket=flow.bucket, Key="target")["Metadata"] == {"colour": "green"}


# The whole of the above with the boto3 that many machines still have.

@pytest.mark.skipif("TWINTREE_OLD_BOTO3" in os.environ, reason="this is that run")
def test_all_of_it_with_an_older_boto3():
    variables = dict(os.environ, PYTHONPATH=str(environment.old_boto3()), TWINTREE_OLD_BOTO3="1")
    variables.pop("TWINTREE_TEST_REPORT", None)
    version = subprocess.run([sys.executable, "-c", "import boto3; print(boto3.__version__)"], env=variables, capture_output=True, text=True)
    assert version.stdout.startswith("1.35."), version
    run = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short", "--timeout=120",
                          "-k", "not older_boto3 and not without_response_checksums",  # a setting that it does not have
                          __file__],
                         env=variables, capture_output=True, text=True, timeout=600, cwd=pathlib.Path(__file__).parent)
    assert run.returncode == 0, run.stdout[-6000:]
