"""Three actors on one tree: S3, the mount, and who writes in the directory itself. A step (lib/steps.py) is done to the
daemon and to the reference alike, and what is answered is compared."""

import ctypes
import dataclasses
import errno
import json
import mmap
import os

from . import reference, server, tree, wire
from .reference import Body
from .steps import BUCKETS, HALVES, LATER, MODES

META = "user.twintree.meta"


class Divergence(AssertionError):
    """What is answered, shown or stored is not what the reference says."""


def check(right, *words):
    if not right:
        raise Divergence(" ".join(str(word) for word in words))


def number(call, *words, **named):
    """The number of the error that a call ends with; 0: it worked."""
    try:
        call(*words, **named)
    except OSError as error:
        return error.errno
    return 0


def rename_with(path, to, flags):
    """renameat2(2), which Python lacks."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(path), -100, os.fsencode(to), flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Actors:
    """The daemon, its faces, and the reference; `do` does a step to both and compares what is answered."""

    def __init__(self, both, fine):
        self.both, self.fine = both, fine
        self.model = reference.Model(BUCKETS)
        self.former, self.held, self.story, self.just = {}, [], [], ()
        self.done = {}
        self.connection = wire.Connection(both.daemon)

    def end(self):
        """Closes what is open: a mount that is held open would have to be taken away by force."""
        for held, _ in self.held:
            os.close(held)
        self.held = []
        self.connection.close()

    def do(self, step):
        """One step; gives whether it did anything."""
        at = len(self.story)
        step = dataclasses.replace(step, path=self.place(step.path, step.pick), to=self.place(step.to, step.other))
        self.now = step
        getattr(self, f"{step.what}_by_s3" if step.face == "S3" else step.what)(step)
        if len(self.story) == at:
            return False
        self.just = self.about
        name = f"{step.face} {step.what}"
        self.done[name] = self.done.get(name, 0) + 1
        return True

    def tell(self, *words):
        self.about = [word for word in words if isinstance(word, str) and "/" in word] or self.just
        short = [repr(word[:8]) + f"*{len(word)}" if isinstance(word, bytes) and len(word) > 8 else str(word) for word in words]
        self.story.append(" ".join([self.now.face, self.now.what, *short]))

    # What a step is about.

    def on(self, face, path):
        return (self.both.mount if face == "mount" else self.both.disk) / path

    def among(self, names, pick):
        names = sorted(names)
        return names[pick % len(names)] if names else None

    def place(self, path, pick):
        """A path that was drawn; mostly its last name in a folder that is there, where its own is not."""
        folder = reference.parent(path)
        if folder in self.model.dirs or pick % 4 == 0:
            return path
        return f"{self.among(self.model.dirs, pick // 4)}/{path.rpartition('/')[2]}"

    def file(self, step, named=False):
        """A file that is there (often one that the step before was about), or the path that was drawn."""
        if named and step.named:
            return step.path
        just = [path for path in self.just if path in self.model.files]
        return self.among(just if just and step.flag // 64 % 4 else self.model.files, step.pick)

    def ask(self, method, bucket, key=None, query="", body=b"", **headers):
        target = f"/{bucket}" + ("" if key is None else "/" + wire.encode(key, safe="/-._~")) + (f"?{query}" if query else "")
        return self.connection.ask(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})

    # By S3.

    def object(self, step):
        """A bucket and a key: of an object, or drawn."""
        bucket = step.path.split("/")[0] if step.named else self.among(self.model.buckets(), step.other)
        if step.named or bucket is None:
            return step.path.split("/")[0], step.key
        just = [path.partition("/")[2] for path in self.just if path.startswith(bucket + "/") and path in self.model.files]
        return bucket, self.among(just if just and step.flag // 64 % 4 else self.model.objects(bucket), step.pick) or step.key

    def conditions(self, bucket, key, when):
        """The headers of a condition, and the status that it leads to where it does not hold."""
        body = self.model.get(bucket, key)
        if when == "always":
            return {}, None
        if when == "if absent":
            return {"if_none_match": "*"}, 412 if body else None
        if when == "if there":
            return {"if_match": "*"}, 412 if body and body.opens else None if body else 404
        tag = {"if seen": body and body.seen, "if former": self.former.get((bucket, key)), "if MD5": body and body.md5()}[when] or "0" * 32
        if body and body.is_tagged(tag) is None:
            tag = body.seen
        refused = 404 if body is None else 412 if body.opens or not body.is_tagged(tag) else None
        return {"if_match": f'"{tag}"'}, refused

    def answered(self, answer, expected, what):
        check(answer.status == expected, f"{what}: answered {answer.status} {answer.code}, not {expected}")

    def put_by_s3(self, step):
        bucket, key = self.object(step)
        headers, refused = self.conditions(bucket, key, step.when)
        self.tell(f"{bucket}/{key}", step.data, step.half or "", step.when)
        sent = {f"x_amz_meta_{name}": value for name, value in step.half.get("meta", {}).items()}
        if "tags" in step.half:
            sent["x_amz_tagging"] = "&".join(f"{name}={value}" for name, value in step.half["tags"].items())
        answer = self.ask("PUT", bucket, key, body=step.data, **headers, **sent)
        if bucket not in self.model.dirs:
            return self.answered(answer, 404, "no such bucket")
        self.answered(answer, refused or 200, "PUT")
        if not refused:
            body = Body(step.data, half=dict(step.half))
            self.model.put(bucket, key, body)
            check(answer.headers["etag"].strip('"') == body.md5(), "PUT answered another ETag than the body's MD5")

    def delete_by_s3(self, step):
        bucket, key = self.object(step)
        when = "always" if step.when == "if absent" else step.when  # S3 has no such deletion
        headers, refused = self.conditions(bucket, key, when)
        self.tell(f"{bucket}/{key}", when)
        answer = self.ask("DELETE", bucket, key, **headers)
        if bucket not in self.model.dirs:
            return self.answered(answer, 404, "no such bucket")
        self.answered(answer, 412 if refused == 412 else 204, "DELETE")  # what is not there is deleted, whatever was asked of it
        if not refused:
            self.model.delete(bucket, key)

    def copy_by_s3(self, step):
        bucket, key = self.object(dataclasses.replace(step, named=False))
        to = step.to.split("/")[0]
        source = self.model.get(bucket, key) if bucket in self.model.dirs else None
        if source is None or to not in self.model.dirs or (bucket, key) == (to, step.key):
            return
        self.tell(f"{bucket}/{key}", "to", f"{to}/{step.key}")
        body = Body(source.data, half=dict(source.half))
        answer = self.ask("PUT", to, step.key, x_amz_copy_source=wire.encode(f"/{bucket}/{key}", safe="/-._~"))
        self.answered(answer, 200, "copy")
        self.model.put(to, step.key, body)

    def tag_by_s3(self, step):
        bucket, key = self.object(dataclasses.replace(step, named=False))
        body = self.model.get(bucket, key) if bucket in self.model.dirs else None
        if body is None or key.endswith("/"):
            return
        tags = step.half.get("tags", {})
        self.tell(f"{bucket}/{key}", tags)
        words = "".join(f"<Tag><Key>{name}</Key><Value>{value}</Value></Tag>" for name, value in tags.items())
        answer = self.ask("PUT", bucket, key, "tagging=", f"<Tagging><TagSet>{words}</TagSet></Tagging>".encode())
        self.answered(answer, 200, "tagging")
        body.said({name: value for name, value in (body.half | {"tags": tags}).items() if value}, by_us=True)

    def make_bucket_by_s3(self, step):
        name = LATER[step.pick % 2]
        self.tell(name)
        there = name in self.model.dirs
        self.answered(self.ask("PUT", name), 409 if there else 200, "CreateBucket")
        if not there:
            self.model.make_bucket(name)

    def remove_bucket_by_s3(self, step):
        name = LATER[step.pick % 2]
        self.tell(name)
        answer = self.ask("DELETE", name)
        if name not in self.model.dirs:
            return self.answered(answer, 404, "DeleteBucket of none")
        full = self.model.holds_objects(name)
        self.answered(answer, 409 if full else 204, "DeleteBucket")
        if not full:
            self.model.remove_bucket(name)

    def restart_by_s3(self, step):
        """Another process: nothing is remembered."""
        if self.held or step.flag % 3:
            return
        self.tell()
        self.connection.close()
        self.both.daemon.restart()
        server.wait_until(lambda: os.path.ismount(self.both.mount), "the mount stands again")
        self.connection = wire.Connection(self.both.daemon)

    # By path: in the mount, or directly.

    def by_us(self):
        return self.now.face == "mount"

    def agree(self, path, got, expected):
        got, expected = (errno.ENOTEMPTY if wrong == errno.EEXIST else wrong for wrong in (got, expected))  # xfs: the one for the other
        check(got == expected, f"{path}: the call ended with {errno.errorcode.get(got, got)}, not {errno.errorcode.get(expected, expected)}")
        return not got

    def writing(self, path, flags, act):
        """Opens, acts, closes; the count is told of what the mount does."""
        opened = os.open(self.on(self.now.face, path), flags, 0o666)
        body = self.model.files.get(path)
        if self.by_us() and body:
            body.opened()
        try:
            act(opened)
        finally:
            os.close(opened)
            if self.by_us() and body:
                body.closed()

    def write(self, step, exclusive=False):
        path = self.file(step, named=True)
        if path is None or "/" not in path:
            return
        self.tell(path, step.data)
        expected = self.model.writable(path) or (errno.EEXIST if exclusive and path in self.model.files else 0)
        if exclusive and path in self.model.dirs:
            expected = self.model.way(path) or errno.EEXIST
        flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if exclusive else os.O_TRUNC)
        got = number(self.writing, path, flags, lambda file: os.write(file, step.data))
        if not self.agree(path, got, expected):
            return
        if path in self.model.files:
            self.model.files[path].rewritten(step.data)
        else:
            self.model.files[path] = Body(step.data, reference.DERIVED)
            self.model.files[path].closing = self.by_us()

    def create(self, step):
        self.write(dataclasses.replace(step, named=step.flag % 8 > 0), exclusive=True)

    def replace(self, step):
        """A new file, renamed over the old one."""
        path = self.file(step, named=True)
        if path is None or self.model.writable(path):
            return
        self.tell(path, step.data)
        new = self.both.mount / path.split("/")[0] / ".new" if self.by_us() else self.both.disk / ".new"
        new.write_bytes(step.data)
        new.rename(self.on(step.face, path))
        self.model.takes_name(path, self.by_us())
        self.model.files[path] = Body(step.data, reference.DERIVED)
        self.model.files[path].closing = self.by_us()

    def same_size(self, step):
        """One byte becomes another; in half of the cases mtime is put back."""
        path = self.file(step)
        if path is None or not self.model.files[path].data:
            return
        body, disguised = self.model.files[path], step.flag % 2
        data = bytes([(body.data[0] + 1) % 256]) + body.data[1:]
        self.tell(path, "disguised" if disguised else "")
        there = self.on(step.face, path)
        before = os.stat(there)
        tree.next_tick(self.on("disk", path))
        self.writing(path, os.O_WRONLY, lambda file: os.pwrite(file, data[:1], 0))
        body.rewritten(data)
        if disguised:
            os.utime(there, ns=(before.st_atime_ns, before.st_mtime_ns))

    def mapped(self, step):
        path = self.file(step)
        if path is None or not self.model.files[path].data:
            return
        body = self.model.files[path]
        data = bytes([(body.data[0] + 1) % 256]) + body.data[1:]
        self.tell(path)

        def store(file):
            with mmap.mmap(file, 0) as pages:
                pages[:1] = data[:1]

        tree.next_tick(self.on("disk", path))
        self.writing(path, os.O_RDWR, store)
        body.rewritten(data)

    def append(self, step):
        path = self.file(step)
        if path is None:
            return
        self.tell(path)
        self.writing(path, os.O_WRONLY | os.O_APPEND, lambda file: os.write(file, b"+"))
        self.model.files[path].rewritten(self.model.files[path].data + b"+")

    def truncate(self, step):
        """Shorter, or longer by zeros."""
        path = self.file(step)
        if path is None:
            return
        data = self.model.files[path].data
        data = data[:step.flag % len(data)] if data and step.other % 3 else data + bytes(1 + step.flag % 9000)
        self.tell(path, "to", len(data))
        os.truncate(self.on(step.face, path), len(data))
        self.model.files[path].rewritten(data)

    def allocate(self, step):
        """Longer by room that reads as zeros."""
        path = self.file(step)
        if path is None:
            return
        data = self.model.files[path].data + bytes(1 + step.flag % 9000)
        self.tell(path, "to", len(data))
        self.writing(path, os.O_WRONLY, lambda file: os.posix_fallocate(file, 0, len(data)))
        self.model.files[path].rewritten(data)

    def copy_range(self, step):
        """The beginning of another file takes the place of as many bytes: the kernel copies, no write(2) shows."""
        path, source = self.file(step), self.among(self.model.files, step.other)
        if path is None or self.model.files[path] is self.model.files[source] or not self.model.files[source].data:
            return
        body, data = self.model.files[path], self.model.files[source].data
        self.tell(path, "from", source)

        def copy(file):
            with open(self.on(step.face, source), "rb") as other:
                at = 0
                while at < len(data):
                    at += os.copy_file_range(other.fileno(), file, len(data) - at, at, at)

        self.writing(path, os.O_WRONLY, copy)
        body.rewritten(data + body.data[len(data):])

    def chmod(self, step):
        path = self.file(step)
        if path is None:
            return
        body = self.model.files[path]
        body.mode = MODES[step.flag % len(MODES)]
        self.tell(path, oct(body.mode))
        os.chmod(self.on(step.face, path), body.mode)
        body.changed(self.by_us())

    def set_times(self, step):
        path = self.file(step)
        if path is None:
            return
        body, at = self.model.files[path], 1_500_000_000_000_000_000 + step.flag * 1_000_003
        self.tell(path, at)
        os.utime(self.on(step.face, path), ns=(at, at))
        body.set_times(at, self.by_us())

    def unlink(self, step):
        path = self.file(step, named=True)
        if path is None:
            return
        self.tell(path)
        got = number(os.unlink, self.on(step.face, path))
        self.agree(path, got, self.model.unlink(path, self.by_us()))

    def make_folder(self, step):
        self.tell(step.path)
        self.agree(step.path, number(os.mkdir, self.on(step.face, step.path), 0o755), self.model.make_folder(step.path))

    def folder(self, step):
        return self.among([path for path in self.model.dirs if "/" in path], step.pick)

    def remove_folder(self, step):
        path = step.path if step.named else self.folder(step)
        if path is None:
            return
        self.tell(path)
        self.agree(path, number(os.rmdir, self.on(step.face, path)), self.model.remove_folder(path))

    def remove_tree(self, step):
        path = self.folder(step)
        if path is None:
            return
        self.tell(path)
        tree.remove(self.on(step.face, path))
        self.model.remove_tree(path)

    def move(self, step, path):
        """Renames; one in four with RENAME_NOREPLACE."""
        if path is None:
            return
        to = step.to if step.named else self.among([*self.model.files, *(name for name in self.model.dirs if "/" in name)], step.other)
        how = "" if step.flag % 4 else "noreplace"
        self.tell(path, "to", to, how)
        got = number(rename_with, self.on(step.face, path), self.on(step.face, to), 1 if how else 0)
        self.agree(f"{path} to {to}", got, self.model.rename(path, to, self.by_us(), how))

    def rename(self, step):
        self.move(step, self.file(step))

    def rename_folder(self, step):
        self.move(step, self.folder(step))

    def exchange(self, step):
        names = [*self.model.files, *(name for name in self.model.dirs if "/" in name)]
        path, to = self.among(names, step.pick), self.among(names, step.other)
        if path is None:
            return
        self.tell(path, "with", to)
        got = number(rename_with, self.on(step.face, path), self.on(step.face, to), 2)
        self.agree(f"{path} with {to}", got, self.model.rename(path, to, self.by_us(), "exchange"))

    def link(self, step):
        path = self.file(step)
        if path is None:
            return
        self.tell(path, "as", step.to)
        got = number(os.link, self.on(step.face, path), self.on(step.face, step.to))
        self.agree(f"{path} as {step.to}", got, self.model.link(path, step.to, self.by_us()))

    def set_half(self, step):
        path = self.file(step)
        if path is None:
            return
        half = step.half or HALVES[-1]
        self.tell(path, half)
        os.setxattr(self.on(step.face, path), META, json.dumps({"v": 1} | half).encode())
        self.model.files[path].said(dict(half), self.by_us())

    def remove_half(self, step):
        path = self.file(step)
        if path is None:
            return
        self.tell(path)
        there = META in os.listxattr(self.on("disk", path))  # it may hold no more than the type
        got = number(os.removexattr, self.on(step.face, path), META)
        if self.agree(path, got, 0 if there else errno.ENODATA):
            self.model.files[path].said({}, self.by_us())

    # Only in the mount.

    def hold(self, step):
        """Opens a file for reading and writing, and keeps it open."""
        path = self.file(step)
        if path is None or len(self.held) > 3:
            return
        self.tell(path)
        body = self.model.files[path]
        self.held.append((os.open(self.on("mount", path), os.O_RDWR), body))
        body.opened()

    def write_held(self, step):
        """Writes where it is open, wherever its names are by now."""
        if not self.held:
            return
        held, body = self.held[step.pick % len(self.held)]
        self.tell(*self.paths_of(body), step.data)
        data = step.data or b"z"
        for path in self.paths_of(body)[:1]:
            tree.next_tick(self.on("disk", path))
        check(os.pwrite(held, data, 0) == len(data), "a short write")
        body.rewritten(data + body.data[len(data):])

    def let_go(self, step):
        if not self.held:
            return
        held, body = self.held.pop(step.pick % len(self.held))
        self.tell(*self.paths_of(body))
        os.close(held)
        body.closed()

    def paths_of(self, body):
        return [path for path, other in self.model.files.items() if other is body]

    def make_bucket(self, step):
        name = LATER[step.pick % 2]
        self.tell(name)
        self.agree(name, number(os.mkdir, self.both.mount / name), self.model.make_folder(name))

    def remove_bucket(self, step):
        name = LATER[step.pick % 2]
        self.tell(name)
        annexed = any(bucket == name for bucket, _ in self.model.annex)
        expected = errno.ENOTEMPTY if annexed else self.model.remove_folder(name)
        self.agree(name, number(os.rmdir, self.both.mount / name), expected)

    def rename_bucket(self, step):
        name, to = LATER[step.pick % 2], LATER[1 - step.pick % 2]
        if name not in self.model.dirs or to in self.model.dirs:
            return
        self.tell(name, "to", to)
        os.rename(self.both.mount / name, self.both.mount / to)
        self.model.rename_bucket(name, to)
