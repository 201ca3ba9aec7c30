"""A tree that versitygw wrote: made by it where its binary is at hand, else as it was made once (`versitygw-1.8.0.json`)."""

import base64
import json
import os
import pathlib

from . import s3

RECORDED = pathlib.Path(__file__).resolve().parent.parent / "versitygw-1.8.0.json"
"""What versitygw 1.8.0 wrote when `fill` was run against it: the xattrs of each path, and what HEAD said of each object. Made anew by `record`."""
BUCKET = "one"
PART = b"a" * (5 << 20)
BODIES = {"plain": b"hello", "typed/x": b"hello", "sha": b"hello", "dir/": b"", "tagged-dir/": b"", "multi": PART + b"tail", "changed": b"hello"}
"""What is put under each key."""


def fill(client):
    """Puts one object of each kind, in parts and not, and leaves an upload under way."""
    client.create_bucket(Bucket=BUCKET)
    for key in ("plain", "dir/", "changed"):
        client.put_object(Bucket=BUCKET, Key=key, Body=BODIES[key])
    client.put_object(Bucket=BUCKET, Key="tagged-dir/", Body=b"", Metadata={"of": "a folder"})
    client.put_object(Bucket=BUCKET, Key="sha", Body=BODIES["sha"], ChecksumAlgorithm="SHA256")
    client.put_object(Bucket=BUCKET, Key="typed/x", Body=BODIES["typed/x"], ContentType="image/png", ContentEncoding="gzip", ContentDisposition="inline",
                      ContentLanguage="de", CacheControl="no-cache", Expires="Wed, 21 Oct 2035 07:28:00 GMT", Metadata={"a": "b", "upper-case": "v"}, Tagging="k=v&k2=v2")
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="multi", ContentType="text/x", Metadata={"m": "p"})["UploadId"]
    parts = [{"PartNumber": number, "ETag": client.upload_part(Bucket=BUCKET, Key="multi", UploadId=upload, PartNumber=number, Body=body)["ETag"]}
             for number, body in ((1, PART), (2, b"tail"))]
    client.complete_multipart_upload(Bucket=BUCKET, Key="multi", UploadId=upload, MultipartUpload={"Parts": parts})
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="open")["UploadId"]
    client.upload_part(Bucket=BUCKET, Key="open", UploadId=upload, PartNumber=1, Body=b"x")


def shown(client):
    """What a client sees of each object, but for when it was made: ETag, length, type, headers, metadata, tags, checksum."""
    found = {}
    for key in BODIES:
        head = client.head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")
        seen = {name: str(head[name]) for name in ("ETag", "ContentLength", "CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ExpiresString",
                                                   "ChecksumSHA256") if name in head}
        # What each shows of a folder that was given no type is its own.
        if not key.endswith("/"):
            seen["ContentType"] = head["ContentType"]
        seen["Metadata"] = head["Metadata"]
        seen["Tags"] = sorted((tag["Key"], tag["Value"]) for tag in s3_tags(client, key))
        found[key] = seen
    return json.loads(json.dumps(found))


def s3_tags(client, key):
    """The tags of an object; none where a gateway says that there are none by an error."""
    try:
        return client.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"]
    except client.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchTagSet":
            raise
        return []


def record(root, seen):
    """Writes down what versitygw wrote."""
    paths = {}
    for folder, _, files in os.walk(root):
        for path in [folder, *(os.path.join(folder, name) for name in files)]:
            inside = os.path.relpath(path, root)
            if not inside.startswith((".vgwlocks", ".")):
                paths[inside] = {name: base64.b64encode(os.getxattr(path, name)).decode() for name in os.listxattr(path)}
    RECORDED.write_text(json.dumps({"paths": paths, "shown": seen}, indent=1, sort_keys=True) + "\n")


def rebuild(root):
    """Makes the tree as it was written down; gives what versitygw showed of it."""
    told = json.loads(RECORDED.read_text())
    for inside, attributes in sorted(told["paths"].items()):
        path = root / inside
        key = inside.partition("/")[2]
        if key in BODIES or (".sgwtmp" in inside and path.name.isdigit()):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(BODIES.get(key, b"x"))
        else:
            path.mkdir(parents=True, exist_ok=True)
        for name, value in attributes.items():
            os.setxattr(path, name, base64.b64decode(value))
    return told["shown"]


def client_of(port):
    """boto3 on a versitygw."""
    return s3.client(f"http://127.0.0.1:{port}")
