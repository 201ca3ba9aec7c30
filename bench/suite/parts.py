"""A multipart upload of 1 GiB in 128 parts, and what its Complete takes."""

import hashlib
import re

from lib import wire

from . import place
from .cases import BIG, MIB, Case
from .client import Asker, Request, Sample

PARTS, PART = 128, 8 * MIB


def all_cases(ground):
    """Every case of this file."""
    return list(Multipart(ground).cases())


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
        yield Case("Complete of 1 GiB", "upload", {label: sample(label, "complete") for label in servers}, "twintree relaxed", note="versitygw syncs nothing")

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
