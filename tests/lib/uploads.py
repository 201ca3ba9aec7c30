"""Multipart uploads as a client and as the disk sees them: what was sent, where each part lies, who holds which region."""

import base64
import hashlib
import os
import pathlib
import re
import socket
import struct

from . import data, server, wire

SLOT = 128
STATES = {1: "open", 2: "publishing", 3: "published", 4: "aborted"}
LOCK = re.compile(r"OFDLCK\s+ADVISORY\s+WRITE\s+\S+\s+\S+:(\d+)\s+(\d+)\s+(\d+|EOF)")


class Upload:
    """One upload; `urls` are gateways on one tree, and every call names the one that it asks."""

    def __init__(self, bucket, key, urls, headers=()):
        self.bucket, self.key, self.urls = pathlib.Path(bucket), key, urls
        self.target = f"/{self.bucket.name}/{wire.encode(key, safe='/-._~')}"
        self.sent = {}
        self.flights = []
        answer = self.ask(0, "POST", "?uploads", headers=headers)
        assert answer.status == 200, answer
        self.id = answer.body.split(b"<UploadId>")[1].split(b"</UploadId>")[0].decode()
        self.folder = self.bucket / ".twintree" / "uploads" / self.id

    def ask(self, which, method, query="", body=b"", headers=()):
        """One request on a connection of its own."""
        with wire.Connection(None, url=self.urls[which]) as connection:
            return connection.ask(method, self.target + query, body, headers, payload=wire.UNSIGNED)

    def query(self, number):
        """The query of a part."""
        return f"?partNumber={number}&uploadId={self.id}"

    def part(self, number, body, which=0):
        """Sends a part, which becomes what is expected of its number."""
        answer = self.ask(which, "PUT", self.query(number), body)
        assert (answer.status, answer.headers.get("etag")) == (200, f'"{data.md5(body)}"'), answer
        self.sent[number] = body

    def begin(self, number, body, length, which=0):
        """Sends the head of a part's request and so many bytes of its body."""
        self.flights.append(Flight(self, number, body, length, which))
        return self.flights[-1]

    def list_of(self, numbers):
        """What Complete sends for these parts."""
        parts = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{data.md5(self.sent[number])}</ETag></Part>" for number in numbers)
        return f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()

    def complete(self, numbers=None, which=0, headers=()):
        """Asks for the object of these parts, all by default."""
        return self.ask(which, "POST", f"?uploadId={self.id}", self.list_of(numbers or sorted(self.sent)), headers)

    def abort(self, which=0):
        """Ends it without an object."""
        return self.ask(which, "DELETE", f"?uploadId={self.id}")

    def etag(self, numbers=None):
        """The ETag that an object of these parts has."""
        return data.multipart_etag([self.sent[number] for number in numbers or sorted(self.sent)])

    def listed(self, which=0):
        """What ListParts says: number to (ETag, size)."""
        answer = self.ask(which, "GET", f"?uploadId={self.id}")
        assert answer.status == 200, answer
        parts = re.findall(rb"<Part>.*?</Part>", answer.body, re.S)
        find = lambda name, part: re.search(rb"<%s>(.*?)</%s>" % (name, name), part).group(1).decode()  # noqa: E731
        return {int(find(b"PartNumber", part)): (find(b"ETag", part).replace("&quot;", ""), int(find(b"Size", part))) for part in parts}

    def expected(self):
        """What ListParts should say."""
        return {number: (data.md5(body), len(body)) for number, body in self.sent.items()}

    def head(self):
        """State and stride, from the bytes on disk."""
        head = (self.folder / "parts").read_bytes()[:SLOT]
        return STATES[head[1]], int.from_bytes(head[8:16], "little")

    def places(self):
        """Number to "assembly" or "own": where each part lies, from the bytes on disk."""
        slots = (self.folder / "parts").read_bytes()
        found = {}
        for number in range(1, 10_001):
            slot = slots[number * SLOT:(number + 1) * SLOT]
            if slot[0]:
                found[number] = {1: "assembly", 2: "own"}[slot[2]]
        return found

    def names(self):
        """The upload's directory."""
        return sorted(os.listdir(self.folder)) if self.folder.exists() else []

    def regions(self):
        """The regions of the assembly that somebody holds, as (first, last) byte; last is "EOF" for a lock without end."""
        inode = str((self.folder / "assembly").stat().st_ino)
        locks = pathlib.Path("/proc/locks").read_text()
        return sorted((int(start), end if end == "EOF" else int(end)) for node, start, end in LOCK.findall(locks) if node == inode)

    def check(self, numbers=None):
        """The object is the concatenation of the parts and has their ETag, by every gateway; nothing is left of the upload."""
        body = b"".join(self.sent[number] for number in numbers or sorted(self.sent))
        for which in range(len(self.urls)):
            answer = self.ask(which, "GET")
            assert (answer.status, answer.headers["etag"]) == (200, f'"{self.etag(numbers)}"'), (answer.status, answer.headers)
            assert answer.body == body
        server.wait_until(lambda: not self.folder.exists(), f"the upload's directory is gone: {self.names()}")


class Flight:
    """A part that is being sent."""

    def __init__(self, upload, number, body, length, which):
        self.body, self.at = body, length
        self.connection = wire.Connection(None, url=upload.urls[which])
        target = upload.target + upload.query(number)
        every = wire.Signer().headers("PUT", target, self.connection.host, (), wire.UNSIGNED)
        self.connection.send("PUT", target, every | {"content-length": len(body)}, body[:length])

    def finish(self):
        """Sends the rest and gives the answer."""
        try:
            self.connection.socket.sendall(self.body[self.at:])
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was answered before the end
        answer = self.connection.answer("PUT")
        self.connection.close()
        return answer

    def cut(self, how):
        """Goes away: "fin" closes, "rst" resets."""
        if how == "rst":
            self.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def put(upload, key, body):
    """Puts another object into an upload's bucket."""
    with wire.Connection(None, url=upload.urls[0]) as connection:
        return connection.ask("PUT", f"/{upload.bucket.name}/{key}", body, payload=wire.UNSIGNED)


def content_md5(body):
    """Content-MD5 of a body."""
    return base64.b64encode(hashlib.md5(body).digest()).decode()


def unnamed(daemon, tree):
    """Files without a name below the tree that the daemon has open: bodies on their way."""
    found = []
    for link in pathlib.Path(f"/proc/{daemon.pid}/fd").iterdir():
        try:
            path = os.readlink(link)
        except FileNotFoundError:
            continue
        if path.startswith(str(tree)) and path.endswith(" (deleted)"):
            found.append(path)
    return found
