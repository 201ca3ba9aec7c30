"""What a daemon serves after a power cut, held against what its clients were promised before it."""

import os

from . import crowd, data, s3, wire
from .promises import ABSENT

POLYNOMIAL = 0x9A6C9329AC4BC9B5
"""CRC64NVME's, reflected."""


def table():
    """A byte's CRC64NVME, for each byte."""
    rows = []
    for row in range(256):
        for _ in range(8):
            row = row >> 1 ^ (POLYNOMIAL if row & 1 else 0)
        rows.append(row)
    return rows


ROWS = table()
KNOWN = {}
LONG = 300_000


def crc64(body):
    """CRC64NVME as the header says it. Slow: for bodies that nobody knows."""
    crc = 2**64 - 1
    for byte in body:
        crc = ROWS[(crc ^ byte) & 255] ^ crc >> 8
    return wire.base64.b64encode((crc ^ 2**64 - 1).to_bytes(8, "big")).decode()


class Aftermath:
    """Looks at everything that was ever named; `faults` says in words what broke a promise."""

    def __init__(self, daemon, top, promises, position):
        self.daemon, self.top, self.bodies = daemon, top, promises.bodies
        self.promised = promises.at(position)
        self.ever = {operation.name[1:] for operation in promises.operations if operation.name[0] == "upload"}
        self.client, self.connection = s3.client(daemon.url), wire.Connection(daemon)
        self.signer = wire.Signer()
        self.faults, self.seen, self.derived, self.torn = [], 0, 0, 0
        self.sent = {data.md5(body) for body in self.bodies.values()}

    def named(self, kind):
        """(the rest of the name, allowed values) of all registers of a kind."""
        return [(name[1:], values) for name, values in self.promised.items() if name[0] == kind]

    def fault(self, what, *name):
        """Keeps a broken promise."""
        self.faults.append(f"{what}: {'/'.join(str(word)[:80] for word in name)}")

    def ask(self, method, bucket, key):
        """A request for an object, with its checksums."""
        return self.connection.ask(method, f"/{bucket}/{wire.encode(key, safe='/-._~')}", headers={"x-amz-checksum-mode": "ENABLED"}, signer=self.signer)

    def buckets(self):
        """The buckets that are there."""
        return {entry["Name"] for entry in self.client.list_buckets()["Buckets"]}

    def look(self, judge):
        """Every key by GET, HEAD and LIST; `judge` says what one object's answers are worth."""
        there = self.buckets()
        for (bucket,), values in self.named("bucket"):
            if bucket not in there and ABSENT not in values:
                self.fault("an acknowledged bucket is gone", bucket)
        listed = {bucket: s3.listed(self.client, bucket) for bucket in sorted(there)}
        started = {name for name, _ in self.named("key")}
        for bucket, entries in listed.items():
            for key in entries:
                if (bucket, key) not in started:
                    self.fault("listed, and nobody put it", bucket, key)
            self.debris(bucket, entries)
        for (bucket, key), values in self.named("key"):
            if bucket in there:
                judge(bucket, key, values, listed[bucket].get(key))

    def debris(self, bucket, entries):
        """Files that a person would see and nobody put."""
        for folder, names, files in os.walk(self.top / bucket):
            if folder == str(self.top / bucket):
                names[:] = [name for name in names if name != ".twintree"]
            for file in files:
                key = os.path.relpath(os.path.join(folder, file), self.top / bucket)
                if key not in entries:
                    self.fault("a file that is no object", bucket, key)

    def strict(self, bucket, key, values, entry):
        """The key has a value that was promised, whole, with its ETag, the same for every question."""
        got, head = self.ask("GET", bucket, key), self.ask("HEAD", bucket, key)
        if got.status == 404:
            if ABSENT not in values:
                self.fault("an acknowledged object is lost", bucket, key)
            if entry or head.status != 404:
                self.fault("listed, and not to be had", bucket, key)
            return
        if got.status != 200 or head.status != 200:
            self.fault(f"answered with {got.status} and {head.status}", bucket, key)
            return
        self.seen += 1
        etag = got.headers["etag"].strip('"')
        if etag not in values:
            self.fault("deleted, and here again" if values == {ABSENT} else "not the value that was acknowledged, or torn", bucket, key, etag, len(got.body))
        elif got.body != self.bodies[etag]:
            self.fault("torn", bucket, key, len(got.body))
        if head.headers["etag"].strip('"') != etag or entry is None or entry["ETag"].strip('"') != etag or entry["Size"] != len(got.body):
            self.fault("HEAD, GET and LIST differ", bucket, key)

    def relaxed(self, bucket, key, _, entry):
        """Whatever is there: no answer has an ETag or a checksum of other bytes."""
        got, head = self.ask("GET", bucket, key), self.ask("HEAD", bucket, key)
        if got.status != 200:
            if got.status != 404 or entry:
                self.fault(f"answered with {got.status}, listed: {bool(entry)}", bucket, key)
            return
        self.seen += 1
        tags = [got.headers["etag"], head.headers.get("etag", "none"), entry["ETag"] if entry else "none"]
        for etag in [tag.strip('"') for tag in tags]:
            if not self.speaks_of(etag, got.body):
                self.fault(f"an ETag of other bytes, {etag}", bucket, key, len(got.body))
        self.derived += tags[0].strip('"') not in self.bodies
        self.torn += data.md5(got.body) not in self.sent
        for answer in (got, head):
            for header, compute in (("crc32", wire.crc32), ("sha256", wire.sha256), ("crc64nvme", self.crc64_of)):
                said = answer.headers.get(f"x-amz-checksum-{header}")
                # What is long, and was just found to be what its ETag says, needs no slow sum.
                known = len(got.body) > LONG and tags[0].strip('"') in self.bodies
                if said and not (known and header == "crc64nvme") and said != compute(got.body):
                    self.fault(f"a {header} of other bytes", bucket, key, len(got.body))

    def crc64_of(self, body):
        """Computed once for each body."""
        name = data.md5(body)
        if name not in KNOWN:
            KNOWN[name] = crc64(body)
        return KNOWN[name]

    def speaks_of(self, etag, body):
        """Is it the ETag of these bytes, or one that claims nothing?"""
        if etag in self.bodies:
            return self.bodies[etag] == body
        return etag == data.md5(body) or etag.endswith("-1")

    def uploads(self, strict):
        """Uploads that were begun take up where they were: their parts are there, and Complete makes the object of them."""
        there = self.buckets()
        shown = {(bucket, upload["UploadId"]) for bucket in there
                 for page in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket) for upload in page.get("Uploads", [])}
        known = dict(self.named("upload"))
        for bucket, upload in shown - self.ever:
            self.fault("an upload that nobody began", bucket, upload)
        for (bucket, upload), values in known.items():
            if (bucket, upload) not in shown:
                if ABSENT not in values and strict:
                    self.fault("an acknowledged upload is lost", bucket, upload)
                continue
            if values == {ABSENT}:
                if strict:
                    self.fault("an upload that had ended is under way again", bucket, upload)
                continue
            self.finish(bucket, upload, next(value for value in values if value is not ABSENT), strict)

    def finish(self, bucket, upload, key, strict):
        """Completes an upload with the parts that it has."""
        named = {"Bucket": bucket, "Key": key, "UploadId": upload}
        stored = {part["PartNumber"]: part for part in self.client.list_parts(**named).get("Parts", [])}
        for (_, of, number), values in self.named("part"):
            has = stored[number]["ETag"].strip('"') if number in stored else ABSENT
            if of == upload and strict and has not in values:
                self.fault("an acknowledged part is lost", key, number, has)
        if not stored:
            return
        parts = crowd.whole_list({number: part["Size"] for number, part in stored.items()})
        etags = [stored[number]["ETag"].strip('"') for number in parts]
        if not all(etag in self.bodies for etag in etags):
            self.fault("a part that nobody sent", key, *etags)
            return
        whole = b"".join(self.bodies[etag] for etag in etags)
        listed = [{"PartNumber": number, "ETag": stored[number]["ETag"]} for number in parts]
        try:
            etag = self.client.complete_multipart_upload(**named, MultipartUpload={"Parts": listed})["ETag"].strip('"')
        except self.client.exceptions.ClientError as refused:
            if strict or refused.response["Error"]["Code"] != "InvalidPart":
                self.fault(f"not to be completed: {refused}", key)
            return
        got = self.ask("GET", bucket, key)
        if etag != data.multipart_etag([self.bodies[etag] for etag in etags]) or got.headers["etag"].strip('"') != etag or got.body != whole:
            self.fault("completed, and torn", key, len(got.body))
        self.seen += 1

    def serves(self):
        """It takes a new object and gives it back."""
        body = os.urandom(1000)
        for bucket in self.buckets():
            self.client.put_object(Bucket=bucket, Key="after the cut/new", Body=body)
            if s3.body(self.client, bucket, "after the cut/new") != body:
                self.fault("a new object is not what was put", bucket)

    def close(self):
        """Ends its connections."""
        self.connection.close()
        self.client.close()
