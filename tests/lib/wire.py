"""Requests written byte by byte: signatures, aws-chunked bodies and sockets of our own.

Nothing here is shared with a client library or with the daemon, so that a mistake that both
would make alike cannot hide.
"""

import base64
import datetime
import hashlib
import hmac
import socket
import ssl
import urllib.parse
import zlib

from . import server

EMPTY = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"
SIGNED_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_CHUNKS_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


def _hmac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def encode(text, safe="-._~"):
    """S3's percent-encoding, of bytes as they are."""
    return urllib.parse.quote(text, safe=safe)


class Signer:
    """SigV4 for one moment; its chunk signatures go on from the last request it signed."""

    def __init__(self, access_key=server.ACCESS_KEY, secret_key=server.SECRET_KEY, region="us-east-1", when=None):
        when = when or datetime.datetime.now(datetime.timezone.utc)
        self.stamp = when.strftime("%Y%m%dT%H%M%SZ")
        self.scope = f"{self.stamp[:8]}/{region}/s3/aws4_request"
        self.access_key = access_key
        key = f"AWS4{secret_key}".encode()
        for part in self.scope.split("/"):
            key = _hmac(key, part)
        self.key = key
        self.previous = ""

    def _signature(self, canonical):
        text = "\n".join(["AWS4-HMAC-SHA256", self.stamp, self.scope, hashlib.sha256(canonical.encode()).hexdigest()])
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()

    def _canonical(self, method, path, query, headers, payload):
        """The canonical request; `path` is as sent, and decoded and encoded once as S3 does."""
        path = encode(urllib.parse.unquote_to_bytes(path), safe="/-._~")
        pairs = sorted((encode(urllib.parse.unquote_to_bytes(name)), encode(urllib.parse.unquote_to_bytes(value)))
                       for name, _, value in (item.partition("=") for item in query.split("&") if item))
        names = sorted(headers)
        return "\n".join([method, path, "&".join(f"{name}={value}" for name, value in pairs),
                          *(f"{name}:{' '.join(str(headers[name]).split())}" for name in names), "", ";".join(names), payload])

    def headers(self, method, target, host, headers=(), payload=UNSIGNED):
        """All headers of a signed request; `headers` are signed with it."""
        signed = {name.lower(): value for name, value in dict(headers).items()}
        signed |= {"host": host, "x-amz-date": self.stamp, "x-amz-content-sha256": payload}
        path, _, query = target.partition("?")
        self.previous = self._signature(self._canonical(method, path, query, signed, payload))
        signed["authorization"] = (f"AWS4-HMAC-SHA256 Credential={self.access_key}/{self.scope},"
                                   f"SignedHeaders={';'.join(sorted(set(signed)))},Signature={self.previous}")
        return signed

    def presign(self, method, target, host, expires=600):
        """The target with the six parameters of a presigned request."""
        path, _, query = target.partition("?")
        credential = encode(f"{self.access_key}/{self.scope}")
        query += ("&" if query else "") + ("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=" + credential +
                                           f"&X-Amz-Date={self.stamp}&X-Amz-Expires={expires}&X-Amz-SignedHeaders=host")
        signature = self._signature(self._canonical(method, path, query, {"host": host}, UNSIGNED))
        return f"{path}?{query}&X-Amz-Signature={signature}"

    def chunk(self, piece):
        """The next chunk's signature."""
        text = "\n".join(["AWS4-HMAC-SHA256-PAYLOAD", self.stamp, self.scope, self.previous, EMPTY, hashlib.sha256(piece).hexdigest()])
        self.previous = hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()
        return self.previous

    def trailer(self, lines):
        """The trailer's signature; `lines` are `name:value` each with a newline."""
        text = "\n".join(["AWS4-HMAC-SHA256-TRAILER", self.stamp, self.scope, self.previous, hashlib.sha256(lines).hexdigest()])
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()


def crc32(body):
    """CRC32 as S3 writes it."""
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


def sha256(body):
    """SHA-256 as S3's checksum headers write it."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def pieces(body, size):
    """The body in pieces of `size`, then the empty one that ends it."""
    return [body[start:start + size] for start in range(0, len(body), size)] + [b""]


def signed_chunks(signer, body, size=65536, trailer=None):
    """The body in signed chunks; `trailer` is (name, value), signed too."""
    framed = bytearray()
    for piece in pieces(body, size):
        framed += f"{len(piece):x};chunk-signature={signer.chunk(piece)}\r\n".encode()
        if piece or trailer is None:
            framed += piece + b"\r\n"
    if trailer:
        name, value = trailer
        framed += f"{name}:{value}\r\nx-amz-trailer-signature:{signer.trailer(f'{name}:{value}'.encode() + bytes([10]))}\r\n\r\n".encode()
    return bytes(framed)


def unsigned_chunks(body, size=65536, trailer=None):
    """The body in unsigned chunks with a trailer."""
    framed = bytearray()
    for piece in pieces(body, size):
        framed += f"{len(piece):x}\r\n".encode() + piece + (b"\r\n" if piece else b"")
    if trailer:
        framed += f"{trailer[0]}:{trailer[1]}\r\n".encode()
    return bytes(framed + b"\r\n")


def http_chunks(body, size=8192):
    """HTTP's own chunked coding around a body."""
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces(body, size))


class Answer:
    """A response: status, headers (lower-case names), body."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def code(self):
        """The S3 error code in the body, or None."""
        _, found, rest = self.body.partition(b"<Code>")
        return rest.split(b"</Code>")[0].decode() if found else None

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:600]!r}>"


OWN = {"date", "x-amz-request-id", "x-amz-id-2"}
"""Header fields that no two answers share."""


def said(answer):
    """What two daemons on one tree must agree on."""
    body = answer.body
    for name in ("x-amz-request-id", "x-amz-id-2"):
        body = body.replace(answer.headers[name].encode(), b"")
    return answer.status, {name: value for name, value in answer.headers.items() if name not in OWN}, body


class Connection:
    """One connection to the daemon."""

    def __init__(self, daemon, *, ca=None, name="127.0.0.1", seconds=30, url=None):
        address = urllib.parse.urlsplit(url or daemon.url)
        self.host = address.netloc
        if address.scheme == "unix" or (url or daemon.url).startswith("unix:"):
            self.host = "localhost"
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(seconds)
            self.socket.connect((url or daemon.url).removeprefix("unix:").removeprefix("//"))
        else:
            self.socket = socket.create_connection((address.hostname, address.port), timeout=seconds)
        if ca:
            self.socket = ssl.create_default_context(cafile=ca).wrap_socket(self.socket, server_hostname=name)
        self.file = self.socket.makefile("rb")

    def send(self, method, target, headers, body=b""):
        """Writes a request as it is given."""
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        self.socket.sendall("\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body)

    def answer(self, method="GET"):
        """Reads one response."""
        while True:
            line = self.file.readline()
            if not line:
                raise ConnectionError("closed without an answer")
            status = int(line.split()[1])
            headers = {}
            while (line := self.file.readline()) not in (b"\r\n", b"\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.strip().lower()] = value.strip()
            if status >= 200:
                break
        if method == "HEAD" or status in (204, 304):
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return Answer(status, headers, self._chunked())
        if "content-length" in headers:
            length = int(headers["content-length"])
            body = self.file.read(length)
            if len(body) != length:
                raise ConnectionError(f"cut after {len(body)} of {length} bytes")
            return Answer(status, headers, body)
        return Answer(status, headers, self.file.read())

    def _chunked(self):
        body = bytearray()
        while size := int(self.file.readline().split(b";")[0], 16):
            body += self.file.read(size)
            self.file.readline()
        while self.file.readline() not in (b"\r\n", b"\n", b""):
            pass
        return bytes(body)

    def ask(self, method, target, body=b"", headers=(), *, signer=None, payload=None, length=True):
        """A signed request and its answer."""
        signer = signer or Signer()
        payload = payload or hashlib.sha256(body).hexdigest()
        every = signer.headers(method, target, self.host, headers, payload)
        if length and (body or method in ("PUT", "POST")):
            every["content-length"] = len(body)
        self.send(method, target, every, body)
        return self.answer(method)

    def close(self):
        """Closes the connection at once."""
        self.file.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
