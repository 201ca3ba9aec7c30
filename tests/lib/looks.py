"""What is looked at after each step of the actors: S3's answers, the mount and the disk, against the reference.

Nothing waits between a step and the looks. One thing alone comes a moment later: the kernel tells the daemon of the last
close after close(2) has returned, and until then the file's ETag is that of an open one. Such a file is looked at at
once in everything else, and again as soon as the daemon has closed it."""

import email.utils
import errno
import json
import os
import random
import re
import stat

from . import annex, reference, server, wire
from .actors import META, Actors, check, number
from .steps import NAMES

LIST = re.compile(r"<Contents><Key>(.*?)</Key>.*?<ETag>(?:&quot;|\")(.*?)(?:&quot;|\")</ETag>.*?<Size>(\d+)</Size>.*?</Contents>", re.S)
PREFIXES = re.compile(r"<CommonPrefixes><Prefix>(.*?)</Prefix></CommonPrefixes>")
RESERVED = ".twintree"


def walk(top):
    """Every name below a directory, with its lstat; what is reserved on disk is left out."""
    found, pending = {}, [""]
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(top, folder)) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if entry.name == RESERVED and folder and "/" not in folder:
                    continue
                found[path] = os.lstat(os.path.join(top, path))
                if stat.S_ISDIR(found[path].st_mode):
                    pending.append(path)
    return found


class Looks(Actors):
    """Actors whose every step is followed by a look at everything."""

    def __init__(self, both, fine, sealing=False):
        super().__init__(both, fine)
        self.sealing = sealing

    def step(self, step):
        """Does a step, and looks."""
        if not self.do(step):
            return
        rng = random.Random(step.seed)
        for look in rng.sample((self.look_by_s3, self.look_at_paths), 2):
            look(rng)
        closing = [body for body in self.bodies() if body.closing]
        if closing:
            self.await_closed()
            for body in closing:
                body.closing = False
            self.look_by_s3(rng)

    def bodies(self):
        return {id(body): body for body in (*self.model.files.values(), *(body for _, body in self.held))}.values()

    def await_closed(self):
        """Waits until the daemon has as many files open for writing as we hold in the mount."""
        folder = f"/proc/{self.both.daemon.pid}/fd"

        def writable(name):
            path = os.readlink(f"{folder}/{name}")
            if not path.startswith(str(self.both.disk)) or f"/{RESERVED}/" in path or re.search(r"/#\d+ \(deleted\)$", path):
                return False
            with open(f"{folder}info/{name}") as info:
                flags = int(re.search(r"flags:\s*(\d+)", info.read())[1], 8)
            return flags & os.O_ACCMODE != os.O_RDONLY

        def settled():
            count = 0
            for name in os.listdir(folder):
                try:
                    count += writable(name)
                except FileNotFoundError:
                    pass  # closed while we looked
            return count <= len(self.held)
        server.wait_until(settled, "the daemon has heard of the close")

    # By S3.

    def look_by_s3(self, rng):
        answer = self.connection.ask("GET", "/")
        buckets = re.findall(r"<Bucket>.*?<Name>(.*?)</Name>", answer.body.decode(), re.S)
        check(buckets == self.model.buckets(), f"S3 lists the buckets {buckets}, not {self.model.buckets()}")
        for bucket in buckets:
            objects = self.model.objects(bucket)
            listed = self.listed(bucket)
            check(list(listed) == sorted(objects, key=str.encode), f"S3 lists in {bucket} {list(listed)}, not {sorted(objects)}")
            for key in rng.sample(list(objects), len(objects)):
                self.look_at_object(bucket, key, objects[key], listed[key])
            self.look_at_absent(bucket, objects, rng)
            self.look_at_page(bucket, list(listed), rng)
        # Last: a condition may have a file read, which is then known by its MD5 under all its names.
        for bucket in buckets:
            for key, body in self.model.objects(bucket).items():
                if not body.closing:
                    self.look_by_condition(bucket, key, body, rng)

    def listed(self, bucket):
        answer = self.ask("GET", bucket, query="list-type=2&max-keys=1000")
        check(answer.status == 200, f"LIST {bucket}: {answer}")
        return {key: (tag, int(size)) for key, tag, size in LIST.findall(answer.body.decode())}

    def look_at_object(self, bucket, key, body, listed):
        name = f"{bucket}/{key}"
        head = self.ask("HEAD", bucket, key, x_amz_checksum_mode="ENABLED")
        got = self.ask("GET", bucket, key)
        check((head.status, got.status) == (200, 200), f"{name}: HEAD {head.status}, GET {got.status}")
        check(got.body == body.data, f"GET {name} gave {got.body[:20]}*{len(got.body)}, not {body.data[:20]}*{len(body.data)}")
        check(int(head.headers["content-length"]) == len(body.data) == listed[1], f"{name}: HEAD says {head.headers}, LIST {listed}")
        tags = {tag.strip('"') for tag in (head.headers["etag"], got.headers["etag"], listed[0])}
        if body.closing or self.sealing:
            right = all(reference.is_derived(tag) or tag == body.md5() for tag in tags)
            check(right, f"{name}: {tags} are no ETags of a file that was just closed, or is sealed")
        if body.closing:
            return
        check(len(tags) == 1 or self.sealing, f"{name}: HEAD, GET and LIST disagree: {tags}")
        tag = got.headers["etag"].strip('"')  # asked last: it may have been sealed meanwhile
        if self.sealing and body.tag != reference.SURE and not body.opens:
            body.tag = reference.LOOSE
        check(body.may_show(tag, self.fine), f"{name} has the ETag {tag}, after {body.seen}{', and was changed since' if body.moved else ''}; "
              f"it must be {'a derived one, while it is open' if body.opens else body.tag} ({body.md5()})")
        if body.seen and body.seen != tag:
            self.former[bucket, key] = body.seen
        body.was_seen(tag)
        sure = "x-amz-checksum-crc64nvme" in head.headers
        check(sure != reference.is_derived(tag) or self.sealing, f"{name}: under {tag} a checksum is{'' if sure else ' not'} answered")
        self.look_at_half(name, body, head)

    def look_at_half(self, name, body, head):
        meta = {header.removeprefix("x-amz-meta-"): value for header, value in head.headers.items() if header.startswith("x-amz-meta-")}
        check(meta == body.half.get("meta", {}), f"HEAD {name} says {meta}, not {body.half}")
        tags = int(head.headers.get("x-amz-tagging-count", 0))
        check(tags == len(body.half.get("tags", {})), f"HEAD {name} says {tags} tags, not {body.half}")
        if name in self.model.files:
            modified = email.utils.parsedate_to_datetime(head.headers["last-modified"]).timestamp()
            there = os.stat(self.on("disk", name)).st_mtime_ns // 10**9
            check(modified == there, f"HEAD {name} says {modified}, its mtime is {there}")

    def look_by_condition(self, bucket, key, body, rng):
        """A condition with the ETag that was seen, that was there before, or of the body."""
        tag = rng.choice((body.seen, body.seen, self.former.get((bucket, key), "0" * 32), body.md5()))
        header = rng.choice(("if_match", "if_none_match"))
        holds = body.is_tagged(tag)
        if holds is None or self.sealing and tag != body.seen and tag in (body.md5(), *body.tags):
            return  # it may be sealed by now, or was, and then named what it was before
        answer = self.ask("GET", bucket, key, **{header: f'"{tag}"'})
        expected = (200 if holds else 412) if header == "if_match" else (304 if holds else 200)
        check(answer.status == expected, f"GET {bucket}/{key} {header} {tag}: {answer.status}, not {expected}; {vars(body) | {'data': len(body.data)}}")
        check(answer.status != 200 or answer.body == body.data, f"GET {bucket}/{key} {header}: other bytes")

    def look_at_absent(self, bucket, objects, rng):
        """Neighbours of keys are no objects because of them."""
        near = {folder + end for key in objects for folder in reference.above(key) for end in ("", "/")}
        near |= {key + end for key in objects for end in ("/", "a")} | {rng.choice(NAMES)}
        near = sorted(key for key in near if key and key not in objects)
        for key in rng.sample(near, min(3, len(near))):
            answer = self.ask("HEAD", bucket, key)
            check(answer.status == 404, f"HEAD {bucket}/{key} is {answer.status}: there is no such object")

    def look_at_page(self, bucket, keys, rng):
        prefix, delimiter = rng.choice(("", "a", "a/", "b/a", ".b")), rng.choice(("/", "/", "a", ""))
        after, most = rng.choice(("", "a", "a/b", "b")), rng.randrange(1, 5)
        texts, more = reference.page(keys, prefix, delimiter, after, most)
        words = {"delimiter": delimiter, "list-type": "2", "max-keys": most, "prefix": prefix, "start-after": after}
        query = "&".join(f"{name}={wire.encode(str(value))}" for name, value in words.items() if value != "")
        answer = self.ask("GET", bucket, query=query).body.decode()
        found = sorted([*(key for key, _, _ in LIST.findall(answer)), *PREFIXES.findall(answer)], key=str.encode)
        truncated = "<IsTruncated>true" in answer
        check((found, truncated) == (texts, more), f"LIST {bucket}?{query}: {found}, more: {truncated}; not {texts}, more: {more}")

    # In the mount and on disk.

    def look_at_paths(self, rng):
        expected = {*self.model.files, *self.model.dirs}
        on_disk = walk(self.both.disk)
        in_mount = walk(self.both.mount)
        self.look_at_annex({path for path in in_mount if path.split("/")[1:2] == [annex.TOP]})
        in_mount = {path: status for path, status in in_mount.items() if path.split("/")[1:2] != [annex.TOP]}
        for face, found in (("on disk", on_disk), ("in the mount", in_mount)):
            lacking, beyond = sorted(expected - set(found)), sorted(set(found) - expected)
            check(not lacking and not beyond, f"{face}: lacking {lacking}, beyond {beyond}")
        for path in rng.sample(sorted(expected), len(expected)):
            self.look_at_status(path, on_disk[path], in_mount[path])
            if path in self.model.files:
                self.look_at_file(path, self.model.files[path], rng)
            else:
                self.look_at_none(path, rng)

    def look_at_annex(self, shown):
        expected = self.model.annexed()
        check(shown == set(expected), f"the annex shows {sorted(shown)}, not {sorted(expected)}")
        for path, body in expected.items():
            if body:
                check(self.on("mount", path).read_bytes() == body.data, f"{path}: not what lies there")

    def look_at_status(self, path, below, shown):
        for field in ("st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_ctime_ns"):
            if self.sealing and field == "st_ctime_ns":
                continue  # a record may have been written between the two looks
            one, other = getattr(shown, field), getattr(below, field)
            if field == "st_ino" and one >> 63:
                continue  # its number was another file's, which the kernel has still
            check(one == other or stat.S_ISDIR(below.st_mode) and field == "st_size", f"{path}: {field} is {one} in the mount, {other} on disk")
        body = self.model.files.get(path)
        check(stat.S_ISDIR(below.st_mode) == (body is None), f"{path} is of another kind")
        if body is None:
            return
        check(below.st_size == len(body.data), f"{path} has {below.st_size} bytes, not {len(body.data)}")
        check(stat.S_IMODE(below.st_mode) == body.mode, f"{path} has the mode {oct(below.st_mode)}, not {oct(body.mode)}")
        check(below.st_nlink == self.model.names(body), f"{path} has {below.st_nlink} links, not {self.model.names(body)}")
        check(body.modified in (None, below.st_mtime_ns), f"{path} has the mtime {below.st_mtime_ns}, not {body.modified}")
        body.modified = below.st_mtime_ns

    def look_at_file(self, path, body, rng):
        for face in rng.sample(("mount", "disk"), 2):
            there = self.on(face, path)
            data = there.read_bytes()
            check(data == body.data, f"{path} {face}: {data[:20]}*{len(data)}, not {body.data[:20]}*{len(body.data)}")
            names = os.listxattr(there)
            check(face == "disk" or names == [META] or not names and not body.half, f"{path} shows {names} in the mount; {body.half}")
            half = json.loads(os.getxattr(there, META)) if META in names else {}
            half = {name: half[name] for name in ("meta", "tags") if half.get(name)}
            check(half == body.half, f"{path} {face}: {META} says {half}, not {body.half}")

    def look_at_none(self, folder, rng):
        """A name that is not there is not there, however often it was."""
        for name in rng.sample(NAMES, 2):
            path = f"{folder}/{name}"
            if path not in self.model.files and path not in self.model.dirs:
                got = number(os.stat, self.on("mount", path))
                check(got == errno.ENOENT, f"{path} is in the mount: {errno.errorcode.get(got, got)}")
