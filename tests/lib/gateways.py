"""Trees that other gateways wrote: made by them where their binary is at hand, else as they were made once (`NAME.json`)."""

import base64
import dataclasses
import json
import os
import pathlib
import socket
import subprocess

from . import s3, server

TESTS = pathlib.Path(__file__).resolve().parent.parent
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


@dataclasses.dataclass(frozen=True)
class Gateway:
    """One of them: its release, the command that imports what it wrote, its command line, and the folders at the top that are its own."""

    release: str
    command: str
    words: tuple
    own: str

    @property
    def binary(self):
        """The program, where `bench/run` or a person put it."""
        return server.ROOT / ".tools" / "bin" / self.release.partition("-")[0]

    @property
    def recorded(self):
        """What it wrote when `fill` was run against it: the xattrs of each path, files of its own, and what HEAD said of each object."""
        return TESTS / f"{self.release}.json"

    def write(self, root):
        """Has it write the tree; gives what it then shows of it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        replaced = {"@ADDRESS@": address, "@ROOT@": str(root), "@ACCESS@": server.ACCESS_KEY, "@SECRET@": server.SECRET_KEY}
        variables = dict(os.environ, MINIO_ROOT_USER=server.ACCESS_KEY, MINIO_ROOT_PASSWORD=server.SECRET_KEY, MINIO_UPDATE="off")
        process = subprocess.Popen([self.binary, *(replaced.get(word, word) for word in self.words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=variables)
        client = s3.client(f"http://{address}")

        def serves():
            try:
                return client.list_buckets()["Buckets"] == []
            except Exception:  # whatever boto3 says of a server that is not there yet
                return False
        try:
            server.wait_until(serves, f"{self.release} serves")
            fill(client)
            return shown(client)
        finally:
            process.terminate()
            process.wait()

    def record(self, root, seen):
        """Writes down what it wrote."""
        paths, files = {}, {}
        for folder, _, names in os.walk(root):
            for path in [folder, *(os.path.join(folder, name) for name in names)]:
                inside = os.path.relpath(path, root)
                if inside.startswith(BUCKET):
                    paths[inside] = {name: base64.b64encode(os.getxattr(path, name)).decode() for name in os.listxattr(path)}
                elif inside.startswith(f".minio.sys/buckets/{BUCKET}/") and path.endswith("fs.json"):
                    files[inside] = pathlib.Path(path).read_text()
        told = {"paths": paths, "files": files, "shown": seen}
        self.recorded.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")

    def rebuild(self, root):
        """Makes the tree as it was written down; gives what it showed of it."""
        told = json.loads(self.recorded.read_text())
        for inside, attributes in sorted(told["paths"].items()):
            path, key = root / inside, inside.partition("/")[2]
            if key in BODIES or (".sgwtmp" in inside and path.name.isdigit()):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(BODIES.get(key, b"x"))
            else:
                path.mkdir(parents=True, exist_ok=True)
            for name, value in attributes.items():
                os.setxattr(path, name, base64.b64decode(value))
        for inside, text in told["files"].items():
            (root / inside).parent.mkdir(parents=True, exist_ok=True)
            (root / inside).write_text(text)
        return told["shown"]


VERSITYGW = Gateway("versitygw-1.8.0", "versitygw", ("--access", "@ACCESS@", "--secret", "@SECRET@", "--port", "@ADDRESS@", "posix", "@ROOT@"), ".vgwlocks")
MINIO = Gateway("minio-2022-05-26", "minio-fs", ("server", "--quiet", "--address", "@ADDRESS@", "--console-address", "127.0.0.1:0", "@ROOT@"), ".minio.sys")
