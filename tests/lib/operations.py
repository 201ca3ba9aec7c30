"""The writing operations of S3, each as one request that can be made again and again from the same state, and what a
bucket holds: by S3, on disk, and in its reserved directory. Used where an operation is cut or fails at a chosen step.
"""

import collections
import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import subprocess

from . import data, server, wire

BUCKET = "bucket-one"
SIZE = 70_000
"""Large enough to be preallocated, small enough for one batch."""
TOLD = re.compile(r"^(etag|content-(type|length)|x-amz-(meta-.*|checksum-.*|tagging-count|mp-parts-count))$")


class Place:
    """A bucket, the daemon that serves it and one connection to it."""

    def __init__(self, daemon, random, sweeper):
        self.daemon, self.sweeper = daemon, sweeper
        self.directory = daemon.root / BUCKET
        self.bodies = collections.defaultdict(lambda: random.bytes(SIZE))
        self.upload, self.part = None, None
        self.connection = None

    def ask(self, method, key, body=b"", **headers):
        """One request for a key (or for what begins with a slash), with headers by name; `None`: the connection ended
        without an answer."""
        target = key if key.startswith("/") else f"/{BUCKET}/{key}"
        if self.connection is None:
            self.connection = wire.Connection(self.daemon)
        try:
            return self.connection.ask(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
        except (ConnectionError, OSError):
            self.hang_up()
            return None

    def must(self, *arguments, **headers):
        """A request that succeeds."""
        answer = self.ask(*arguments, **headers)
        assert answer is not None and answer.status < 300, (arguments[:2], answer, self.daemon.words())
        return answer

    def empty(self):
        """Takes everything out of the bucket, as a person would."""
        for name in os.listdir(self.directory):
            shutil.rmtree(self.directory / name)

    def hang_up(self):
        """Ends the connection; the next request makes another."""
        if self.connection is not None:
            with contextlib.suppress(OSError):
                self.connection.close()
            self.connection = None

    def restart(self):
        """Starts a daemon that was killed, on the same tree."""
        self.hang_up()
        self.daemon.kill()
        self.daemon.start()

    def put(self, key, which, **headers):
        """PUT of the body of this name, with headers that tell it from others."""
        return self.ask("PUT", key, self.bodies[which], **{"content-type": f"text/x-{which}", "x-amz-meta-which": which}, **headers)

    # What it holds.

    def objects(self):
        """Each object as LIST, HEAD and GET give it; they must agree. And the uploads under way with their parts."""
        found = {}
        listed = self.must("GET", "?list-type=2").body.decode()
        for entry in re.findall("<Contents>(.*?)</Contents>", listed, re.S):
            key, size, etag = (field(entry, name) for name in ("Key", "Size", "ETag"))
            told = [self.must(method, key, **{"x-amz-checksum-mode": "ENABLED"}) for method in ("HEAD", "GET")]
            heads = [{name: value for name, value in answer.headers.items() if TOLD.match(name)} for answer in told]
            assert heads[0] == heads[1], (key, heads)
            body = told[1].body
            assert (heads[1]["etag"], int(heads[1]["content-length"]), len(body)) == (etag, int(size), int(size)), (key, heads, entry)
            if "-" not in etag:
                assert etag.strip('"') == data.md5(body), f"{key}: an ETag of other bytes"
            found[key] = (hashlib.sha256(body).hexdigest(), tuple(sorted(heads[0].items())))
        uploads = self.must("GET", "?uploads").body.decode()
        for entry in re.findall("<Upload>(.*?)</Upload>", uploads, re.S):
            parts = self.must("GET", f"{field(entry, 'Key')}?uploadId={field(entry, 'UploadId')}").body.decode()
            found["upload", field(entry, "Key")] = tuple((field(part, "PartNumber"), field(part, "ETag"), field(part, "Size"))
                                                         for part in re.findall("<Part>(.*?)</Part>", parts, re.S))
        return found

    def visible(self):
        """What a person sees on disk: directories, and files by their bytes."""
        found = {}
        for folder, names, files in os.walk(self.directory):
            if folder == str(self.directory) and ".twintree" in names:
                names.remove(".twintree")
            for name in names:
                found[os.path.relpath(os.path.join(folder, name), self.directory)] = "directory"
            for name in files:
                path = pathlib.Path(folder, name)
                found[os.path.relpath(path, self.directory)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def reserved(self):
        """Names in the reserved directory."""
        top = self.directory / ".twintree"
        return {os.path.relpath(os.path.join(folder, name), top) for folder, names, files in os.walk(top) for name in names + files}

    def sweep(self, *what):
        """Takes away what crashes left, as the daemon does when it is a day old."""
        subprocess.run([self.sweeper, str(self.daemon.root), *what], check=True, capture_output=True)


def field(xml, name):
    """An element's text."""
    return re.search(f"<{name}>(.*?)</{name}>", xml, re.S).group(1).replace("&quot;", '"')


class Operation:
    """One request. `reset` brings any state to the one before it. `once`: made again after it succeeded it is a 404.
    `first`: nothing was written to the bucket before."""

    def __init__(self, name, reset, request, *, once=False, first=False):
        self.name, self.reset, self.request, self.once, self.first = name, reset, request, once, first


def copy(place, key, **headers):
    """A copy of `dir/source` to a key."""
    return place.ask("PUT", key, **{"x-amz-copy-source": f"/{BUCKET}/dir/source"}, **headers)


def begin(place, key):
    """A fresh upload as the only one."""
    for entry in re.findall("<Upload>(.*?)</Upload>", place.must("GET", "?uploads").body.decode(), re.S):
        place.must("DELETE", f"{field(entry, 'Key')}?uploadId={field(entry, 'UploadId')}")
    answer = place.must("POST", f"{key}?uploads", **{"content-type": "text/x-upload", "x-amz-meta-which": "upload"})
    place.upload = field(answer.body.decode(), "UploadId")


def part(place, key, which):
    """Part 1 of the upload."""
    return place.ask("PUT", f"{key}?partNumber=1&uploadId={place.upload}", place.bodies[which])


def whole(place, key, which):
    """A fresh upload with its only part."""
    begin(place, key)
    assert part(place, key, which).status == 200
    place.part = data.md5(place.bodies[which])


def complete(place, key):
    """Complete of that upload."""
    listed = f"<Part><PartNumber>1</PartNumber><ETag>{place.part}</ETag></Part>"
    return place.ask("POST", f"{key}?uploadId={place.upload}", f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode())


def each(*steps):
    """All of them, one after the other; each must succeed."""
    def run(place):
        for step in steps:
            answer = step(place)
            assert answer is None or answer.status < 300, answer
    return run


def gone(key):
    """Deletes a key."""
    return lambda place: place.must("DELETE", key)


def there(key, which="old"):
    """Puts a key."""
    return lambda place: place.put(key, which)


TAGS = b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"
OPERATIONS = {operation.name: operation for operation in (
    Operation("first-put", lambda place: place.empty(), lambda place: place.put("dir/k", "new"), first=True),
    Operation("put", gone("dir/k"), lambda place: place.put("dir/k", "new")),
    Operation("put-in-new-folders", gone("one/two/k"), lambda place: place.put("one/two/k", "new")),
    Operation("put-in-the-annex", gone("x//k"), lambda place: place.put("x//k", "new")),
    Operation("put-a-folder", gone("folder/"), lambda place: place.ask("PUT", "folder/", b"", **{"x-amz-meta-which": "new"})),
    Operation("overwrite", there("dir/k"), lambda place: place.put("dir/k", "new")),
    Operation("copy", gone("dir/k"), lambda place: copy(place, "dir/k")),
    Operation("copy-over", there("dir/k"), lambda place: copy(place, "dir/k")),
    Operation("copy-onto-itself", there("dir/source", "source"),
              lambda place: copy(place, "dir/source", **{"x-amz-metadata-directive": "REPLACE", "content-type": "text/x-new", "x-amz-meta-which": "new"})),
    Operation("tag", there("dir/k"), lambda place: place.ask("PUT", "dir/k?tagging", TAGS)),
    Operation("create-upload", lambda place: begin(place, "dir/k") or abort(place, "dir/k"), lambda place: place.ask("POST", "dir/k?uploads")),
    Operation("upload-part", lambda place: begin(place, "dir/k"), lambda place: part(place, "dir/k", "new")),
    Operation("upload-part-again", lambda place: whole(place, "dir/k", "old"), lambda place: part(place, "dir/k", "new")),
    Operation("complete", each(gone("dir/k"), lambda place: whole(place, "dir/k", "new")), lambda place: complete(place, "dir/k")),
    Operation("complete-over", each(there("dir/k"), lambda place: whole(place, "dir/k", "new")), lambda place: complete(place, "dir/k")),
    Operation("abort", lambda place: whole(place, "dir/k", "new"), lambda place: place.ask("DELETE", f"dir/k?uploadId={place.upload}"), once=True),
    Operation("delete", there("dir/k"), lambda place: place.ask("DELETE", "dir/k")),
    Operation("delete-with-its-folders", there("one/two/k"), lambda place: place.ask("DELETE", "one/two/k")),
    Operation("delete-from-the-annex", there("x//k"), lambda place: place.ask("DELETE", "x//k")),
    Operation("delete-a-folder", lambda place: place.must("PUT", "folder/"), lambda place: place.ask("DELETE", "folder/")),
)}


def abort(place, key):
    """Aborts the upload."""
    place.must("DELETE", f"{key}?uploadId={place.upload}")


def sweeper():
    """The program that sweeps at once, built beside the daemon."""
    built = pathlib.Path(server.BINARY).parent / "examples" / "sweep"
    target = built.parent.parent.parent
    subprocess.run(["cargo", "build", "--quiet", "--package", "twintree-store", "--example", "sweep"], cwd=server.ROOT, check=True,
                   env={**os.environ, "CARGO_TARGET_DIR": str(target)})
    return str(built)
