"""What is measured. A case is one kind of work; its variants are the servers (and plain commands) that do it.

Each variant is a function of the round that does the work once, checks every answer, and gives a Sample. What a
case needs before it (files, buckets, further servers) lies in `Ground`; reading back and clearing away are never
inside a sample. What is wanted of a case stands in aims.py.
"""

import dataclasses
import itertools
import os

from lib import wire

from . import place, servers
from .client import Asker, Request, answered

KIB, MIB = 1 << 10, 1 << 20
BIG = 256 * MIB
EACH, FIRST, LAST = "each", "first", "last"
"""In which rounds a case has its turn; LAST: once, after all others."""


@dataclasses.dataclass
class Scale:
    """How much of everything a run does."""

    rounds: int
    big: int            # GETs of 256 MiB on one connection
    many_big: int       # and on 16
    middle: int         # GETs of 1 MiB
    small: int          # requests of 4 KiB, ours and nginx's
    slow_small: int     # the same for the other gateways
    puts: int           # PUTs of 4 KiB
    stream: int         # bytes of each of 16 PUTs at once
    flat: int           # files of the flat directory
    folders: int        # of the deep tree, and so many files in each
    pages: int          # pages after the first
    slow_flat: int      # files of the other gateways' flat directory
    slow_pages: dict    # pages after the first for them
    rest: int           # seconds before memory is looked at for the last time
    seconds: int        # no further round starts after so long


FULL = Scale(rounds=4, big=8, many_big=16, middle=2048, small=20_000, slow_small=5000, puts=4096, stream=32 * MIB, flat=1_000_000, folders=1000,
             pages=200, slow_flat=200_000, slow_pages={"versitygw": 4, "rclone": 1}, rest=60, seconds=360)
QUICK = Scale(rounds=2, big=2, many_big=16, middle=512, small=4000, slow_small=1000, puts=1024, stream=8 * MIB, flat=50_000, folders=200,
              pages=40, slow_flat=20_000, slow_pages={"versitygw": 2, "rclone": 1}, rest=1, seconds=40)


@dataclasses.dataclass
class Case:
    """A kind of work. `limit` is the variant that twintree (`ours`) is held against."""

    name: str
    unit: str                   # what Sample.work counts; empty: nothing is, only the figures in Sample.also
    variants: dict              # label -> function of the round
    ours: str
    limit: str = ""
    aim: float | None = None    # in a mount: the share of the bare directory's speed that is wanted
    note: str = ""
    when: str = EACH


class Ground:
    """The servers, the client and the files that all cases share."""

    def __init__(self, scale, client, mount, state, stack, programs):
        self.scale, self.client, self.mount, self.state, self.stack = scale, client, mount, state, stack
        self.programs, self.others = programs, {}
        self.root = mount / "twintree"
        self.journaled = {"ext4": mount}
        """Where strict PUTs are measured: the kind of filesystem and a folder on it; below `root` it is a bucket's."""

    def start(self):
        """The servers that stay for the whole run."""
        for peer in ("versitygw", "rclone", "nginx"):
            (self.mount / peer).mkdir()
        self._make_plain()
        self.strict = self.keep(servers.Twintree(self.root, self.state / "strict", "strict"))
        self.relaxed = self.keep(servers.Twintree(self.root, self.state / "relaxed", "relaxed"))
        nginx, versitygw, rclone = (self.programs[name] for name in ("nginx", "versitygw", "rclone"))
        self.nginx = nginx and self.keep(servers.Nginx(self.root, self.state / "nginx", self.mount / "nginx", nginx))
        self.versitygw = versitygw and self.keep(servers.Versitygw(self.mount / "versitygw", self.state / "versitygw", versitygw))
        self.rclone = rclone and self.keep(servers.RcloneServe(self.mount / "rclone", self.state / "rclone", rclone))
        self.peers = {server.label: server for server in (self.versitygw, self.rclone) if server}
        """The other gateways: they take ten times as long, and get less to do."""

    def keep(self, server):
        """Starts a server that stays until the end of the run."""
        return self.stack.enter_context(server)

    def relaxed_with(self, name, *flags, **options):
        """A daemon like `relaxed` but for these, started at its first use."""
        if name not in self.others:
            self.others[name] = self.keep(servers.Twintree(self.root, self.state / name, "relaxed", *flags, **options))
        return self.others[name]

    def fresh(self, label, root, *flags, **options):
        """A server for `with`, which knows nothing yet."""
        if label in self.peers:
            return type(self.peers[label])(root, self.state / f"{label}-fresh", self.programs[label])
        return servers.Twintree(root, self.state / "fresh", "strict", *flags, **options)

    def _make_plain(self):
        """A bucket of files that nobody PUT: made before any server runs, so that none has a record."""
        folder = self.root / "plain"
        folder.mkdir()
        for target, offset, length in self.plain():
            with open(self.client.bodies, "rb") as bodies:
                bodies.seek(offset)
                (self.root / target.lstrip("/")).write_bytes(bodies.read(length))

    def plain(self):
        """The files that nobody PUT: (target, offset, length)."""
        return [(f"/plain/{i:03}", i * 16 * KIB, 16 * KIB) for i in range(256)]

    def prepare(self):
        """Buckets, and the objects that GETs ask for, through each gateway, so that each has its record."""
        for server in (self.relaxed, *self.peers.values()):
            with Asker(server) as asker:
                for bucket in ("data", "put"):
                    asker.ask("PUT", f"/{bucket}")
            for objects, connections in (
                ([("/data/big", 0, BIG)], 1),
                ([(f"/data/middle/{i:03}", i * MIB, MIB) for i in range(64)], 1),
                ([(f"/data/small/{i:03}", i * 4 * KIB, 4 * KIB) for i in range(256)], 8),
            ):
                answered(server.label, lambda: self.put(server, objects, connections=connections))
        place.flush(self.mount)

    def put(self, server, objects, *, connections=1, headers=(), payload=wire.UNSIGNED, status=None):
        """PUTs (target, offset, length) of the body file; gives what Client.load gives."""
        signer = wire.Signer()
        requests = []
        for target, offset, length in objects:
            head = server.head("PUT", target, {"content-length": length, **dict(headers)}, payload=payload, signer=signer)
            requests.append(Request(head, send=(offset, length)))
        return self.client.load(server, requests, connections=connections, status=status or server.ok)

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

    def readers(self):
        """Who answers GETs: (label, server)."""
        named = [("twintree", self.strict), ("nginx", self.nginx), *self.peers.items()]
        return [(label, server) for label, server in named if server]


def in_turn(cases, turn):
    """One round: every variant of every case, the order of the variants turned by one each round."""
    for case in cases:
        if case.when == LAST or case.when == FIRST and turn:
            continue
        variants = list(case.variants.items())
        shift = turn % len(variants)
        for label, measure in itertools.chain(variants[shift:], variants[:shift]):
            yield case, label, measure


def at_last(cases):
    """What is measured once, after all rounds."""
    for case in cases:
        if case.when == LAST:
            for label, measure in case.variants.items():
                yield case, label, measure
