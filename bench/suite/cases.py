"""What is measured. A case is one kind of work; its variants are the servers (and plain commands) that do it.

Each variant is a function of the round that does the work once, checks every answer, and gives a Sample. What a
case needs before it (files, buckets) lies in `Ground`; reading back and clearing away are never inside a sample.
"""

import base64
import dataclasses
import hashlib
import itertools
import os
import re
import zlib

from lib import wire

from . import place
from .client import Asker, Request, Sample, command

KIB, MIB = 1 << 10, 1 << 20
BIG = 256 * MIB
PARTS, PART = 128, 8 * MIB


@dataclasses.dataclass
class Scale:
    """How much of everything a run does."""

    rounds: int
    big: int            # GETs of 256 MiB on one connection
    many_big: int       # and on 16
    middle: int         # GETs of 1 MiB
    small: int          # requests of 4 KiB, ours and nginx's
    slow_small: int     # the same for versitygw, which takes ten times as long
    puts: int           # PUTs of 4 KiB
    flat: int           # files of the flat directory
    slow_pages: int     # pages after the first for versitygw
    seconds: int        # no further round starts after so long


FULL = Scale(rounds=4, big=8, many_big=16, middle=2048, small=20_000, slow_small=5000, puts=4096, flat=200_000, slow_pages=4, seconds=420)
QUICK = Scale(rounds=2, big=2, many_big=16, middle=512, small=4000, slow_small=1000, puts=1024, flat=20_000, slow_pages=2, seconds=40)


@dataclasses.dataclass
class Case:
    """A kind of work. `limit` is the variant that twintree (`ours`) is held against, `aim` the ratio wanted."""

    name: str
    unit: str                   # what Sample.work counts
    variants: dict              # label -> function of the round
    ours: str
    limit: str = ""
    aim: float | None = None    # CPU of ours divided by CPU of the limit
    wall_aim: float | None = None
    note: str = ""


class Ground:
    """The servers, the client and the files that all cases share."""

    def __init__(self, scale, client, strict, relaxed, nginx, versitygw, fresh, mount):
        self.scale, self.client, self.mount = scale, client, mount
        self.strict, self.relaxed, self.nginx, self.versitygw = strict, relaxed, nginx, versitygw
        self.fresh = fresh
        self.servers = [server for server in (strict, relaxed, nginx, versitygw) if server]
        self.gateways = [server for server in (relaxed, versitygw) if server]

    def prepare(self):
        """Buckets, the objects that GETs ask for (through each gateway, so that each has its record), the flat directories."""
        for server in self.gateways:
            with Asker(server) as asker:
                for bucket in ("data", "put", "flat"):
                    asker.ask("PUT", f"/{bucket}")
            self.put(server, [("/data/big", 0, BIG)])
            self.put(server, [(f"/data/middle/{i:03}", i * MIB, MIB) for i in range(64)])
            self.put(server, [(f"/data/small/{i:03}", i * 4 * KIB, 4 * KIB) for i in range(256)], connections=8)
            folder = os.open(server.root / "flat", os.O_PATH)
            for name in self.flat_names():
                file = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=folder)
                os.ftruncate(file, 1000)
                os.close(file)
            os.close(folder)
        place.flush(self.mount)

    def flat_names(self):
        """The names of the flat directory, in key order: 24 bytes each."""
        return [f"file-{i:015}.bin" for i in range(self.scale.flat)]

    def put(self, server, objects, *, connections=1, headers=(), payload=wire.UNSIGNED):
        """PUTs (target, offset, length) of the body file; gives what Client.load gives."""
        signer = wire.Signer()
        requests = []
        for target, offset, length in objects:
            head = server.head("PUT", target, {"content-length": length, **dict(headers)}, payload=payload, signer=signer)
            requests.append(Request(head, send=(offset, length)))
        return self.client.load(server, requests, connections=connections, status=server.ok)

    def read_back(self, server, objects, *, connections=4):
        """GETs (target, offset, length) and compares every byte."""
        signer = wire.Signer()
        requests = [Request(server.head("GET", target, signer=signer), length=length, want=offset) for target, offset, length in objects]
        self.client.load(server, requests, connections=connections)

    def clear(self, *folders):
        """Removes the files that a case made, as a person would."""
        for folder in folders:
            if folder.is_dir():
                for entry in os.scandir(folder):
                    if entry.is_file():
                        os.unlink(entry.path)


def all_cases(ground):
    """Every case, in the order in which a round runs them."""
    return [
        *large_gets(ground),
        *small_reads(ground),
        *large_puts(ground),
        *small_puts(ground),
        *Listing(ground).cases(),
        *Multipart(ground).cases(),
    ]


def readers(ground):
    """Who answers GETs: (label, server)."""
    named = [("twintree", ground.strict), ("nginx", ground.nginx), ("versitygw", ground.versitygw)]
    return [(label, server) for label, server in named if server]


def large_gets(ground):
    """GETs whose cost is in the bytes. The timed client takes the bytes uncopied; one answer before it is compared."""
    scale = ground.scale

    def get(server, objects, connections, count, copy=False):
        def measure(_round):
            ground.read_back(server, objects[:1], connections=1)
            signer = wire.Signer()
            requests = [Request(server.head("GET", target, signer=signer), length=length) for target, _, length in objects]
            said, cpu = ground.client.load(server, requests, connections=connections, count=count, copy=copy)
            return Sample(cpu, said["wall"], said["bytes"] / 1e9)
        return measure

    big = [("/data/big", 0, BIG)]
    middle = [(f"/data/middle/{i:03}", i * MIB, MIB) for i in range(64)]
    shapes = [
        ("GET 256 MiB, 1 connection", big, 1, scale.big, False, 1.15),
        ("GET 256 MiB, 16 connections", big, 16, scale.many_big, False, 1.15),
        ("GET 256 MiB, 1 connection, client copies", big, 1, scale.big, True, 1.15),
        ("GET 1 MiB, 16 connections", middle, 16, scale.middle, False, 1.25),
    ]
    for name, objects, connections, count, copy, aim in shapes:
        variants = {label: get(server, objects, connections, count, copy) for label, server in readers(ground)}
        yield Case(name, "GB", variants, "twintree", "nginx", aim, 1 / 0.9 if objects is big else None)


def small_reads(ground):
    """4 KiB GETs and HEADs over 32 connections, signed in the head; nginx is asked unsigned. Every byte is compared."""
    objects = [(f"/data/small/{i:03}", i * 4 * KIB, 4 * KIB) for i in range(256)]

    def read(server, method, count):
        def measure(_round):
            signer = wire.Signer()
            requests = [Request(server.head(method, target, signer=signer), length=length, want=-1 if method == "HEAD" else offset,
                                bodiless=method == "HEAD") for target, offset, length in objects]
            said, cpu = ground.client.load(server, requests, connections=32, count=count)
            return Sample(cpu, said["wall"], said["answers"])
        return measure

    for method, name in (("GET", "GET 4 KiB, signed, 32 connections"), ("HEAD", "HEAD, signed, 32 connections")):
        variants = {label: read(server, method, ground.scale.slow_small if label == "versitygw" else ground.scale.small)
                    for label, server in readers(ground)}
        yield Case(name, "request", variants, "twintree", "nginx", 1.3)


def large_puts(ground):
    """PUT of 256 MiB to a new key, one connection; each is read back whole."""

    def put(server, label, headers=(), payload=wire.UNSIGNED):
        def measure(turn):
            place.flush(ground.mount)
            objects = [(f"/put/large/{label}-{turn}".replace(" ", "-"), 0, BIG)]
            said, cpu = ground.put(server, objects, headers=headers, payload=payload)
            ground.read_back(server, objects, connections=1)
            ground.clear(server.root / "put" / "large")
            return Sample(cpu, said["wall"], BIG / 1e9)
        return measure

    def copy(*then):
        def measure(_turn):
            place.flush(ground.mount)
            target = ground.mount / "copy"
            cpu, wall = command(["cp", ground.client.bodies, target])
            for words in then:
                more = command([*words, target])
                cpu, wall = cpu + more[0], wall + more[1]
            target.unlink()
            return Sample(cpu, wall, BIG / 1e9)
        return measure

    yield Case("PUT 256 MiB, relaxed", "GB",
               {"twintree": put(ground.relaxed, "relaxed"), "cp": copy(), "cp + md5sum": copy(["md5sum"]),
                **({"versitygw": put(ground.versitygw, "vgw")} if ground.versitygw else {})},
               "twintree", "cp + md5sum", 1.0, note="versitygw syncs nothing")
    yield Case("PUT 256 MiB, strict", "GB",
               {"twintree": put(ground.strict, "strict"), "cp + md5sum + sync": copy(["md5sum"], ["sync"])},
               "twintree", "cp + md5sum + sync", 1.0)
    body = ground.client.bodies.read_bytes()
    sha256 = hashlib.sha256(body).hexdigest()
    crc32 = {"x-amz-checksum-crc32": base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()}
    del body
    yield Case("PUT 256 MiB as boto3 sends it (SHA-256 signed, CRC32), relaxed", "GB",
               {"twintree": put(ground.relaxed, "sha", crc32, sha256), "cp + md5sum + sha256sum": copy(["md5sum"], ["sha256sum"]),
                **({"versitygw": put(ground.versitygw, "vgw-sha", crc32, sha256)} if ground.versitygw else {})},
               "twintree", "cp + md5sum + sha256sum", 1.0)


def small_puts(ground):
    """PUT of 4 KiB to new keys of one directory; every eighth is read back."""
    count = ground.scale.puts

    def put(server, label, connections, count=count, folder="put/tiny"):
        def measure(turn):
            place.flush(ground.mount)
            objects = [(f"/{folder}/{label}-{turn}-{i:06}", i * 4 * KIB, 4 * KIB) for i in range(count)]
            said, cpu = ground.put(server, objects, connections=connections)
            if server is ground.nginx:
                _compare(ground.mount / "nginx" / folder, objects[::8], ground.client.bodies)
                ground.clear(ground.mount / "nginx" / folder)
            else:
                ground.read_back(server, objects[::8])
                ground.clear(server.root / folder)
            return Sample(cpu, said["wall"], said["answers"])
        return measure

    def raw(threads, sync):
        def measure(_turn):
            place.flush(ground.mount)
            folder = ground.mount / "raw"
            folder.mkdir(exist_ok=True)
            cpu, wall = ground.client.raw(folder, count, threads, 4 * KIB, sync)
            ground.clear(folder)
            return Sample(cpu, wall, count)
        return measure

    relaxed = {"twintree": put(ground.relaxed, "relaxed", 32), "raw calls, 1 thread": raw(1, False)}
    if ground.nginx:
        relaxed["nginx DAV"] = put(ground.nginx, "dav", 32, folder="dav")
    if ground.versitygw:
        relaxed["versitygw"] = put(ground.versitygw, "vgw", 32, min(count, 2048))
    yield Case("PUT 4 KiB, relaxed, 32 connections", "request", relaxed, "twintree", "nginx DAV" if ground.nginx else "raw calls, 1 thread", 1.5,
               note="versitygw and nginx sync nothing; nginx keeps no metadata, hash or signature")
    for connections in (64, 1):
        few = count if connections > 1 else count // 16
        yield Case(f"PUT 4 KiB, strict, {connections} connection{'s' * (connections > 1)}", "request",
                   {"twintree": put(ground.strict, f"strict{connections}", connections, few),
                    "raw calls, fdatasync + fsync(dir) each": raw(connections, True)},
                   "twintree", "raw calls, fdatasync + fsync(dir) each", None, 0.5 if connections > 1 else None,
                   note="wall is what counts")


def _compare(folder, objects, bodies):
    with open(bodies, "rb") as want:
        for target, offset, length in objects:
            want.seek(offset)
            if (folder / target.rpartition("/")[2]).read_bytes() != want.read(length):
                raise SystemExit(f"nginx keeps another body than was sent: {target}")


class Listing:
    """A flat directory, page by page, each page compared with the names that are there.

    Every round starts fresh servers: one sample of the first page, one of the pages after it, and for twintree
    one of a second pass, whose metadata is known.
    """

    def __init__(self, ground):
        self.ground = ground
        self.names = ground.flat_names()
        self.seen = {}

    def cases(self):
        labels = ["twintree"] + (["versitygw"] if self.ground.versitygw else [])
        size = f"{self.ground.scale.flat:,}"

        def sample(label, what):
            def measure(turn):
                if (label, turn) not in self.seen:
                    self.seen[label, turn] = self.walk(label)
                return self.seen[label, turn][what]
            return measure

        yield Case(f"LIST, first page of {size} files, fresh server", "page", {label: sample(label, "first") for label in labels}, "twintree")
        yield Case(f"LIST, the pages after it, flat directory of {size}", "page", {label: sample(label, "next") for label in labels}, "twintree",
                   note="aim: 2.0 ms CPU a page")
        yield Case("LIST, the whole directory again", "page", {"twintree": sample("twintree", "again")}, "twintree", note="aim: 0.8 ms CPU a page")

    def walk(self, label):
        with self.ground.fresh(label) as server, Asker(server) as asker:
            every = -(-len(self.names) // 1000)
            samples = {}
            token = None
            pages = every - 1 if label == "twintree" else min(every - 1, self.ground.scale.slow_pages)
            samples["first"], token = self.pages(asker, None, 0, 1)
            samples["next"], token = self.pages(asker, token, 1, pages)
            if label == "twintree":
                samples["again"], token = self.pages(asker, None, 0, every)
                if token:
                    raise SystemExit("a listing that goes on after its last page")
            return samples

    def pages(self, asker, token, first, count):
        """Asks for `count` pages from page `first` on; gives their sample and the token after them."""
        wall, before = 0.0, asker.server.cpu()
        for page in range(first, first + count):
            target = "/flat?list-type=2&max-keys=1000"
            if token:
                target = "/flat?continuation-token=" + wire.encode(token) + "&list-type=2&max-keys=1000"
            answer, took = asker.ask("GET", target)
            wall += took
            text = answer.body.decode()
            if re.findall(r"<Key>([^<]*)</Key>", text) != self.names[page * 1000:(page + 1) * 1000]:
                raise SystemExit(f"{asker.server.label}: page {page} does not list what is there")
            found = re.search(r"<NextContinuationToken>([^<]*)</NextContinuationToken>", text)
            token = found and found[1]
        return Sample(asker.server.cpu() - before, wall, count), token


class Multipart:
    """An upload of 1 GiB in 128 parts, then its Complete; the ETag is checked and every part is read back."""

    def __init__(self, ground):
        self.ground = ground
        self.seen = {}
        step = (BIG - PART) // PARTS // 4096 * 4096
        # Overlapping slices of the body file, no two of them alike.
        self.slices = [(number * step, PART) for number in range(PARTS)]
        body = ground.client.bodies.read_bytes()
        self.sums = [hashlib.md5(body[at:at + length]).digest() for at, length in self.slices]

    def cases(self):
        servers = {"twintree relaxed": self.ground.relaxed, "twintree strict": self.ground.strict, "versitygw": self.ground.versitygw}
        servers = {label: server for label, server in servers.items() if server}

        def sample(label, what):
            def measure(turn):
                if (label, turn) not in self.seen:
                    self.seen[label, turn] = self.upload(servers[label], label)
                return self.seen[label, turn][what]
            return measure

        yield Case("UploadPart, 128 x 8 MiB, 4 connections", "GB", {label: sample(label, "parts") for label in servers}, "twintree relaxed")
        yield Case("Complete of 1 GiB", "upload", {label: sample(label, "complete") for label in servers}, "twintree relaxed",
                   note="aim: 2 ms, and in strict the sync; versitygw syncs nothing")

    def upload(self, server, label):
        ground, target = self.ground, "/put/whole/" + label.replace(" ", "-")
        place.flush(ground.mount)
        with Asker(server) as asker:
            answer, _ = asker.ask("POST", f"{target}?uploads=")
            upload = re.search(rb"<UploadId>([^<]*)</UploadId>", answer.body)[1].decode()
            parts = [(f"{target}?partNumber={number + 1}&uploadId={wire.encode(upload)}", at, length)
                     for number, (at, length) in enumerate(self.slices)]
            said, cpu = ground.put(server, parts, connections=4)
            samples = {"parts": Sample(cpu, said["wall"], PARTS * PART / 1e9)}
            rows = "".join(f"<Part><PartNumber>{number + 1}</PartNumber><ETag>&quot;{digest.hex()}&quot;</ETag></Part>"
                           for number, digest in enumerate(self.sums))
            document = f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{rows}</CompleteMultipartUpload>'
            before = server.cpu()
            answer, wall = asker.ask("POST", f"{target}?uploadId={wire.encode(upload)}", document.encode())
            samples["complete"] = Sample(server.cpu() - before, wall, 1)
        etag = hashlib.md5(b"".join(self.sums)).hexdigest() + f"-{PARTS}"
        if etag.encode() not in answer.body:
            raise SystemExit(f"{server.label}: Complete answers {answer} and not the ETag {etag}")
        signer = wire.Signer()
        ranges = []
        for number, (at, length) in enumerate(self.slices):
            head = server.head("GET", target, {"range": f"bytes={number * PART}-{(number + 1) * PART - 1}"}, signer=signer)
            ranges.append(Request(head, length=length, want=at))
        ground.client.load(server, ranges, connections=2, status=206)
        ground.clear(server.root / "put" / "whole")
        return samples


def in_turn(cases, turn):
    """One round: every variant of every case, the order of the variants turned by one each round."""
    for case in cases:
        variants = list(case.variants.items())
        shift = turn % len(variants)
        for label, measure in itertools.chain(variants[shift:], variants[:shift]):
            yield case, label, measure
