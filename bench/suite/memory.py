"""How much memory a daemon has: idle, for each GET and PUT that is under way, and after everything else."""

import select
import socket
import time

from lib import wire

from . import servers
from .cases import BIG, FIRST, KIB, LAST, MIB, Case
from .client import Asker, Sample

GETS, PUTS = 200, 64
SENT = 6 * MIB
"""Bytes of each PUT that are sent while its daemon is looked at."""
PATIENCE = 60


def all_cases(ground):
    """Every case of this file."""
    def fresh(look):
        def measure(_turn):
            with ground.fresh("twintree", ground.root) as server, Asker(server) as asker:
                asker.ask("GET", "/data/small/000")
                return Sample(0, 0, 0, also=look(server))
        return measure

    def rested(server):
        def measure(_turn):
            time.sleep(ground.scale.rest)
            return Sample(0, 0, 0, also={"MiB": servers.pss(server.pid)})
        return measure

    return [
        Case("Memory, idle", "", {"twintree": fresh(lambda server: {"MiB": servers.pss(server.pid)})}, "twintree", when=FIRST),
        Case(f"Memory, {GETS} GETs under way", "", {"twintree": fresh(lambda server: gets(ground, server))}, "twintree", note="of 256 MiB, whose readers have taken 64 KiB and wait", when=FIRST),
        Case(f"Memory, {PUTS} PUTs under way", "", {"twintree": fresh(lambda server: puts(ground, server))}, "twintree", note=f"of 256 MiB each, the most while {SENT // MIB} MiB of each came", when=FIRST),
        Case("Memory, after everything and a rest", "", {"twintree strict": rested(ground.strict), "twintree relaxed": rested(ground.relaxed)}, "twintree strict",
             note=f"{ground.scale.rest} s without a request", when=LAST),
    ]


def gets(ground, server):
    """Each connection has asked for a large object, and has received its beginning."""
    before, sockets, signer = servers.pss(server.pid), [], wire.Signer()
    try:
        for _ in range(GETS):
            one = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
            sockets.append(one)
            one.sendall(server.head("GET", "/data/big", signer=signer))
        for one in sockets:
            left = 64 * KIB
            while left:
                piece = one.recv(left)
                if not piece:
                    raise SystemExit("a GET ended early")
                left -= len(piece)
        return {"KiB for each": (servers.pss(server.pid) - before) * 1024 / GETS}
    finally:
        for one in sockets:
            one.close()


def puts(ground, server):
    """Each connection sends as much of a large body as the daemon takes, all at once; the most that was seen counts."""
    before, most, signer = servers.pss(server.pid), 0.0, wire.Signer()
    body = memoryview(ground.client.bodies.read_bytes()[:SENT])
    sent = {}
    deadline = time.monotonic() + PATIENCE
    try:
        for index in range(PUTS):
            one = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
            one.sendall(server.head("PUT", f"/put/held-{index}", {"content-length": BIG}, signer=signer))
            one.setblocking(False)
            sent[one] = 0
        waiting = set(sent)
        while waiting:
            if time.monotonic() > deadline:
                raise SystemExit("the daemon takes no more of these PUTs")
            _, writable, _ = select.select([], list(waiting), [], 1)
            for one in writable:
                sent[one] += one.send(body[sent[one]:sent[one] + 256 * KIB])
                if sent[one] == SENT:
                    waiting.discard(one)
            most = max(most, servers.pss(server.pid))
        return {"KiB for each": (most - before) * 1024 / PUTS}
    finally:
        for one in sent:
            one.close()
