"""One tree with two faces: a daemon that serves a directory as S3 and mounts the same buckets."""

import contextlib
import errno
import hashlib
import os
import re

from . import s3, server
from .mountpoint import is_mounted, unmount

BUCKET = "bucket-one"
SECOND = "bucket-two"


class Faces:
    """The three places where one object is seen: `client` (S3), `mount` (POSIX), `disk` (the directory itself)."""

    def __init__(self, folder, *flags, environment=None, buckets=(BUCKET, SECOND), wrapper=()):
        self.disk = folder / "tree"
        self.mount = folder / "mount"
        for path in (self.disk, self.mount):
            path.mkdir(exist_ok=True)
        for name in buckets:
            (self.disk / name).mkdir(exist_ok=True)
        self.daemon = server.Daemon(self.disk, folder / "daemon", "--mount", self.mount, *flags, environment=environment, wrapper=wrapper)

    def __enter__(self):
        self.daemon.start()
        server.wait_until(lambda: is_mounted(self.mount), "the mount stands")
        self.client = s3.client(self.daemon.url)
        return self

    def __exit__(self, *_):
        try:
            self.daemon.stop()
            assert not is_mounted(self.mount), "SIGTERM left the mount behind"
        finally:
            self.daemon.kill()
            unmount(self.mount)

    def on(self, face, key, bucket=BUCKET):
        """Where a key lies on a face that has paths."""
        return (self.mount if face == "mount" else self.disk) / bucket / key

    def said(self, pattern):
        """What the log holds of a pattern's first group; None where it holds nothing of the kind."""
        found = re.search(pattern, self.daemon.log.read_text(errors="replace"))
        return found.group(1) if found else None


@contextlib.contextmanager
def absent():
    """What is not there is said to be not there, and nothing else goes wrong."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise


def seen_in_mount(path, order):
    """What the mount shows of a name, asked in the order given: each question may meet a cache that another would fill.

    Gives (size, bytes, is it listed); None, None, False where it is not there.
    """
    size, body, listed = None, None, None
    for question in order:
        with absent():
            if question == "stat":
                stat = os.stat(path)
                size = stat.st_size if not os.path.isdir(path) else "folder"
            elif question == "read":
                body = path.read_bytes() if not path.is_dir() else "folder"
            else:
                listed = False
                listed = path.name in os.listdir(path.parent)
    return size, body, bool(listed)


def seen_by_s3(client, key, bucket=BUCKET):
    """What S3 shows of a key: (size, bytes, is it listed), and its ETag; HEAD, GET and LIST must agree about that.

    The kernel tells the daemon of the last close a moment after close(2) has returned. Until then the file counts as
    open, and its ETag is another one that promises nothing: then, and only then, it is looked at once more.
    """
    for _ in range(100):
        seen, tags = look_by_s3(client, key, bucket)
        if len(tags) <= 1 or not all(tag.endswith("-1") for tag in tags):
            break
    assert len(tags) <= 1, f"{key}: HEAD, GET and LIST disagree: {tags}"
    return seen, next(iter(tags), None)


def look_by_s3(client, key, bucket):
    """One look: what was seen, and the ETags that HEAD, GET and LIST gave."""
    from botocore.exceptions import ClientError  # the one error that is an answer here

    entries = s3.listed(client, bucket, Prefix=key)
    try:
        head = client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 404, error
        return (None, None, key in entries), set()
    got = client.get_object(Bucket=bucket, Key=key)
    body = got["Body"].read()
    etag = got["ETag"].strip('"')
    tags = {head["ETag"].strip('"'), etag} | ({entries[key]["ETag"].strip('"')} if key in entries else set())
    assert_truthful(key, etag, body)
    if key in entries:
        assert entries[key]["Size"] == head["ContentLength"], key
    return (head["ContentLength"], body, key in entries), tags


def assert_truthful(key, etag, body):
    """An ETag that looks like an MD5 is the MD5 of the bytes that came with it."""
    if re.fullmatch("[0-9a-f]{32}", etag):
        assert hashlib.md5(body).hexdigest() == etag, f"{key}: an ETag of other bytes"
