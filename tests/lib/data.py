"""Seeded bodies: random to look at, the same in every run, never zeros."""

import hashlib
import random

MIB = 1024 * 1024


class Source:
    """Bytes from a named seed; two draws differ, two runs do not."""

    def __init__(self, seed):
        self._random = random.Random(hashlib.sha256(seed.encode()).digest())

    def bytes(self, length):
        """`length` random bytes, none of which is zero in the first sixteen."""
        drawn = bytearray(self._random.randbytes(length))
        for index in range(min(16, length)):
            drawn[index] = drawn[index] or 0xA5
        return bytes(drawn)

    def draw(self):
        """The generator itself, for choices and numbers."""
        return self._random


def md5(body):
    """The MD5 of `body` in hex."""
    return hashlib.md5(body).hexdigest()


def multipart_etag(parts):
    """S3's ETag of an object made of `parts`, without quotes."""
    digests = b"".join(hashlib.md5(part).digest() for part in parts)
    return f"{hashlib.md5(digests).hexdigest()}-{len(parts)}"
