"""The five checksums through boto3: header, copy, parts, whole; stored, given back, verified, and the same after a restart."""

import base64
import functools
import hashlib
import zlib

import pytest
from lib import data, s3


@functools.cache
def table(polynomial):
    """The byte table of a reflected CRC."""
    values = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ polynomial if byte & 1 else byte >> 1
        values.append(byte)
    return values


def crc(polynomial, bits, body):
    """A CRC as the algorithms' definitions say it, for botocore computes these two only with a library of its own."""
    state, mask, values = (1 << bits) - 1, (1 << bits) - 1, table(polynomial)
    for byte in body:
        state = values[(state ^ byte) & 255] ^ (state >> 8)
    return (state ^ mask).to_bytes(bits // 8, "big")


ALGORITHMS = {
    "CRC32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "CRC32C": lambda body: crc(0x82F63B78, 32, body),
    "CRC64NVME": lambda body: crc(0x9A6C9329AC4BC9B5, 64, body),
    "SHA1": lambda body: hashlib.sha1(body).digest(),
    "SHA256": lambda body: hashlib.sha256(body).digest(),
}
MULTIPART = [("CRC32", "COMPOSITE"), ("CRC32", "FULL_OBJECT"), ("CRC32C", "COMPOSITE"), ("CRC32C", "FULL_OBJECT"),
             ("CRC64NVME", "FULL_OBJECT"), ("SHA1", "COMPOSITE"), ("SHA256", "COMPOSITE")]
IMPOSSIBLE = [("CRC64NVME", "COMPOSITE"), ("SHA1", "FULL_OBJECT"), ("SHA256", "FULL_OBJECT")]


def text(digest):
    return base64.b64encode(digest).decode()


def said(answer):
    """What an answer says of checksums."""
    return {name: value for name, value in answer.items() if name.startswith("Checksum")}


def test_the_definitions_give_the_check_values_of_the_catalogue():
    check = b"123456789"
    assert [ALGORITHMS[name](check).hex() for name in ("CRC32", "CRC32C", "CRC64NVME")] == ["cbf43926", "e3069283", "ae8b14860a799888"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_checksum_is_stored_given_back_copied_and_verified(client, bucket, served, random, name):
    field, body = f"Checksum{name}", random.bytes(3000)
    value = text(ALGORITHMS[name](body))
    whole = {field: value, "ChecksumType": "FULL_OBJECT"}
    assert said(client.put_object(Bucket=bucket, Key="k", Body=body, **{field: value})) == whole
    wrong = text(ALGORITHMS[name](body + b"x"))
    s3.refused(400, "BadDigest", client.put_object, Bucket=bucket, Key="k", Body=body, **{field: wrong})
    s3.refused(400, "InvalidRequest", client.put_object, Bucket=bucket, Key="k", Body=body, **{field: "!!"})
    assert said(client.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k")["CopyObjectResult"]) == whole
    client.put_object(Bucket=bucket, Key="other", Body=body)
    asked = client.copy_object(Bucket=bucket, Key="asked", CopySource=f"{bucket}/other", ChecksumAlgorithm=name)
    assert said(asked["CopyObjectResult"]) == whole
    for start in ("first", "after a restart"):
        client = s3.client(served.url)
        for key in ("k", "copy", "asked"):
            assert said(client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")) == whole, (start, key)
            assert said(client.head_object(Bucket=bucket, Key=key)) == {}
            got = client.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
            assert got["Body"].read() == body and said(got) == whole
            ranged = client.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED", Range="bytes=1-9")
            assert ranged["Body"].read() == body[1:10] and said(ranged) == {}, "it would be the whole's, not the range's"
            attributes = client.get_object_attributes(Bucket=bucket, Key=key, ObjectAttributes=["Checksum", "ObjectSize"])
            assert attributes["Checksum"] == whole and attributes["ObjectSize"] == len(body)
        listed = s3.listed(client, bucket)["k"]
        assert (listed["ChecksumAlgorithm"], listed["ChecksumType"]) == ([name], "FULL_OBJECT")
        served.restart()


@pytest.mark.parametrize("name, kind", IMPOSSIBLE)
def test_what_an_algorithm_cannot_be_is_refused_at_once(client, bucket, name, kind):
    s3.refused(400, "InvalidRequest", client.create_multipart_upload, Bucket=bucket, Key="k", ChecksumAlgorithm=name, ChecksumType=kind)


@pytest.mark.parametrize("name, kind", MULTIPART)
def test_parts_and_whole_have_checksums(client, bucket, served, random, name, kind):
    field, digest, key = f"Checksum{name}", ALGORITHMS[name], {"Bucket": bucket, "Key": "whole"}
    bodies = [random.bytes(5 * data.MIB), random.bytes(1000)]
    values = [digest(body) for body in bodies]
    created = client.create_multipart_upload(**key, ChecksumAlgorithm=name, ChecksumType=kind)
    assert said(created) == {"ChecksumAlgorithm": name, "ChecksumType": kind}
    upload = {**key, "UploadId": created["UploadId"]}
    s3.refused(400, "BadDigest", client.upload_part, **upload, PartNumber=1, Body=b"zz", **{field: text(digest(b"z"))})
    etags = []
    for number, body in enumerate(bodies, 1):
        answer = client.upload_part(**upload, PartNumber=number, Body=body, **{field: text(values[number - 1])})
        assert answer[field] == text(values[number - 1])
        etags.append(answer["ETag"])
    listed = client.list_parts(**upload)
    assert (listed["ChecksumAlgorithm"], listed["ChecksumType"]) == (name, kind)
    assert [part[field] for part in listed["Parts"]] == [text(value) for value in values]

    parts = [{"PartNumber": number, "ETag": etag, field: text(value)} for number, (etag, value) in enumerate(zip(etags, values), 1)]
    composite = kind == "COMPOSITE"
    value = f"{text(digest(b''.join(values)))}-2" if composite else text(digest(b"".join(bodies)))
    wrong_whole = text(digest(b"wrong")) + ("-2" if composite else "")
    wrong_part = [{**parts[0], field: text(digest(b"wrong"))}, parts[1]]
    complete = functools.partial(client.complete_multipart_upload, **upload)
    s3.refused(400, "InvalidPart", complete, MultipartUpload={"Parts": wrong_part})
    s3.refused(400, "BadDigest", complete, MultipartUpload={"Parts": parts}, **{field: wrong_whole})
    s3.refused(400, "InvalidRequest", complete, MultipartUpload={"Parts": parts}, ChecksumType="FULL_OBJECT" if composite else "COMPOSITE")
    whole = {field: value, "ChecksumType": kind}
    assert said(complete(MultipartUpload={"Parts": parts}, ChecksumType=kind, **{field: value})) == whole

    for start in ("first", "after a restart"):
        client = s3.client(served.url)
        assert said(client.head_object(**key, ChecksumMode="ENABLED")) == whole, start
        got = client.get_object(**key, ChecksumMode="ENABLED")
        assert got["Body"].read() == b"".join(bodies) and said(got) == whole
        for number, body in enumerate(bodies, 1):
            part = client.get_object(**key, PartNumber=number, ChecksumMode="ENABLED")
            assert part["Body"].read() == body and part["PartsCount"] == 2
            assert said(part) == {field: text(values[number - 1]), "ChecksumType": kind}
            assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
            assert client.head_object(**key, PartNumber=number)["ContentLength"] == len(body)
        s3.refused(416, "InvalidPartNumber", client.get_object, **key, PartNumber=3)
        attributes = client.get_object_attributes(**key, ObjectAttributes=["Checksum", "ObjectParts"], MaxParts=1)
        assert attributes["Checksum"] == whole
        assert (attributes["ObjectParts"]["TotalPartsCount"], attributes["ObjectParts"]["IsTruncated"]) == (2, True)
        assert attributes["ObjectParts"]["Parts"] == [{"PartNumber": 1, "Size": len(bodies[0]), field: text(values[0])}]
        served.restart()


def test_a_part_number_of_an_object_without_parts(client, bucket):
    client.put_object(Bucket=bucket, Key="k", Body=b"plain")
    assert client.get_object(Bucket=bucket, Key="k", PartNumber=1)["Body"].read() == b"plain"
    s3.refused(416, "InvalidPartNumber", client.get_object, Bucket=bucket, Key="k", PartNumber=2)
