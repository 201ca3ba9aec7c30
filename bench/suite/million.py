"""Trees of a million files: a flat directory and 1,000 folders of 1,000, listed page by page, and started on.

Nobody has PUT any of these files, and each has 1,000 bytes. They are made at first use, once for a run.
"""

import re
import time

from lib import wire

from . import place, servers
from .aims import BOTH, STATX
from .cases import FIRST, Case
from .client import Asker, Sample
from .writes import traced, traced_calls

QUIET = ("--watch", "off", "--seal", "off")
"""What looks at a tree in the background would count as the listing's."""
FEWER = 5
"""The limit of a page of folders: as many with a fifth of the files, still more than a block of the directory holds."""
CEILING = 8
"""MiB for what a listing keeps, where it is to keep little: less than the names of a million files take."""
AGAIN = 20
"""How often a page that is asked for again is asked for."""


class Trees:
    """The root with the buckets `flat` and `deep` (and `shallow`, with as many folders and fewer files), and the other gateways' own `flat`."""

    def __init__(self, ground):
        self.ground = ground
        self.root = ground.mount / "million"
        self.small = ground.mount / "versitygw"
        """The other gateways', with the bucket `flat` alone in common."""

    def ready(self):
        """Makes them, unless they are there."""
        if self.root.exists():
            return
        scale, client = self.ground.scale, self.ground.client
        self.root.mkdir()
        client.many(self.root / "flat", scale.flat)
        if self.ground.versitygw:
            with Asker(self.ground.versitygw) as asker:
                asker.ask("PUT", "/flat")
        if self.ground.peers:
            client.many(self.small / "flat", scale.slow_flat)
        client.many(self.root / "deep", scale.folders, scale.folders)
        client.many(self.root / "shallow", scale.folders // FEWER, scale.folders)
        place.flush(self.root)

    def name(self, index):
        """A file of a flat directory; they count upwards in key order."""
        return f"file-{index:015}.bin"


def all_cases(ground):
    """Every case of this file."""
    trees = Trees(ground)
    return [*Flat(ground, trees).cases(), *delimited(ground, trees), started(ground, trees), looked(ground, trees)]


class Flat:
    """The flat directory, page by page, each page compared with the names that are there.

    Every round starts fresh servers: one sample of the first page, one of the pages after it, and for twintree
    one of a second pass, whose metadata is known.
    """

    def __init__(self, ground, trees):
        self.ground, self.trees = ground, trees
        self.seen = {}

    def cases(self):
        labels = ["twintree", *self.ground.peers]
        scale = self.ground.scale
        size = f"a flat directory of {scale.flat:,} files, the other gateways' of {scale.slow_flat:,}"

        def sample(label, what):
            def measure(turn):
                if (label, turn) not in self.seen:
                    self.trees.ready()
                    self.seen[label, turn] = self.walk(label)
                return self.seen[label, turn][what]
            return measure

        def names(_turn):
            self.trees.ready()
            cpu, wall = self.ground.client.names(self.trees.root / "flat", scale.flat)
            return Sample(cpu, wall, 1)

        def looks(op, first):
            def measure(_turn):
                self.trees.ready()
                wall, cpu = self.ground.client.files(op, self.trees.root / "flat", scale.pages * 1000, first=first)
                return Sample(cpu, wall, scale.pages)
            return measure

        first = {label: sample(label, "first") for label in labels} | {"getdents + sort": names}
        yield Case("LIST, first page, fresh server", "page", first, "twintree", "getdents + sort", note=size)
        after = {label: sample(label, "next") for label in labels} | {BOTH: looks("statx-xattr", 1000)}
        yield Case("LIST, the pages after it", "page", after, "twintree", BOTH, note=f"{size}; the limit: these calls of the same names alone; its aim is the issue's 2.0 ms over the 1.62 ms that they took where that was set")
        yield Case("LIST under a ceiling", "page", {"twintree": self.under_a_ceiling}, "twintree", note=f"{size}; list-cache = {CEILING} MiB", when=FIRST)
        again = {"twintree": sample("twintree", "again"), STATX: looks("statx", 0)}
        yield Case("LIST, the pages again", "page", again, "twintree", STATX, note="their metadata is known; the limit: this call of the same names alone; its aim is the issue's 0.8 ms over the 0.47 ms that it took where that was set")

    def under_a_ceiling(self, _turn):
        self.trees.ready()
        with self.ground.fresh("twintree", self.trees.root, *QUIET, "--list-cache", f"{CEILING}MiB") as server, Asker(server) as asker:
            asker.ask("GET", f"/flat/{self.trees.name(0)}")
            before = servers.pss(server.pid)
            sample, token = self.pages(asker, None, 0, 1)
            self.pages(asker, token, 1, 2)
            sample.also["MiB of memory more"] = servers.pss(server.pid) - before
            return sample

    def walk(self, label):
        theirs = self.ground.scale.slow_pages.get(label)
        root, pages, flags = (self.trees.small, theirs, ()) if theirs else (self.trees.root, self.ground.scale.pages, QUIET)
        with self.ground.fresh(label, root, *flags) as server, Asker(server) as asker:
            samples = {}
            if label == "twintree":
                asker.ask("GET", f"/flat/{self.trees.name(0)}")
            before = servers.pss(server.pid)
            samples["first"], token = self.pages(asker, None, 0, 1)
            samples["first"].also["MiB of memory more"] = servers.pss(server.pid) - before
            samples["next"], token = self.pages(asker, token, 1, pages)
            if label == "twintree":
                samples["again"], token = self.pages(asker, None, 0, pages)
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
            if re.findall(r"<Key>([^<]*)</Key>", text) != [self.trees.name(index) for index in range(page * 1000, (page + 1) * 1000)]:
                raise SystemExit(f"{asker.server.label}: page {page} does not list what is there")
            found = re.search(r"<NextContinuationToken>([^<]*)</NextContinuationToken>", text)
            token = found and found[1]
        return Sample(asker.server.cpu() - before, wall, count), token


def delimited(ground, trees):
    """LIST with a delimiter: the folders of the deep tree, beside those of a tree with as many folders and fewer files, and a tenth of the page."""
    folders = ground.scale.folders

    def sample(bucket, keys, fresh):
        def measure(_turn):
            trees.ready()
            target = f"/{bucket}?delimiter=%2F&list-type=2&max-keys={keys}"
            want = [f"folder-{index:04}/" for index in range(keys)]
            with ground.fresh("twintree", trees.root, *QUIET) as server, Asker(server) as asker:
                asker.ask("GET", f"/flat/{trees.name(0)}")
                if not fresh:
                    asker.ask("GET", target)
                before, wall, count = server.cpu(), 0.0, 1 if fresh else AGAIN
                for _ in range(count):
                    answer, took = asker.ask("GET", target)
                    wall += took
                    if re.findall(r"<CommonPrefixes><Prefix>([^<]*)</Prefix>", answer.body.decode()) != want:
                        raise SystemExit(f"{target} does not list what is there")
                return Sample(server.cpu() - before, wall, count)
        return measure

    for words, fresh in (("fresh server", True), ("again", False)):
        variants = {"twintree": sample("deep", folders, fresh), "fewer files in each": sample("shallow", folders, fresh), "a tenth of the page": sample("deep", folders // 10, fresh)}
        yield Case(f"LIST with delimiter, {words}", "page", variants, "twintree", "fewer files in each",
                   note=f"{folders:,} folders of {folders:,} files, on a page of {folders:,}; the limit: as many folders of {folders // FEWER} files each")


def started(ground, trees):
    """From the start of the process to the first answer."""

    def measure(_turn):
        trees.ready()
        one = ground.fresh("twintree", trees.root)
        began = time.monotonic()
        with one as server, Asker(server) as asker:
            asker.ask("GET", f"/flat/{trees.name(0)}")
            return Sample(server.cpu(), time.monotonic() - began, 1)

    return Case("Start, to the first answer", "start", {"twintree": measure}, "twintree", note=f"{ground.scale.flat + ground.scale.folders ** 2:,} files below ROOT")


def looked(ground, trees):
    """What a daemon reads of the tree's directories before its first answer, by strace."""

    def measure(_turn):
        trees.ready()
        file = ground.state / "looked"
        with ground.fresh("twintree", trees.root, wrapper=traced(file, "getdents,getdents64")) as server, Asker(server) as asker:
            asker.ask("GET", f"/flat/{trees.name(0)}")
            answered = time.time()
        calls = [words for moment, words in traced_calls(file, server.pid) if moment <= answered and f"<{trees.root}/" in words]
        return Sample(0, 0, 0, also={"getdents below ROOT": len(calls)})

    return Case("Directories read before the first answer", "", {"twintree": measure}, "twintree", note="by strace", when=FIRST)
