"""Small requests of one bucket while 200 connections wait for another bucket's slow disk, and 2,000 are idle."""

import contextlib
import os
import random
import resource
import socket
import subprocess

from lib import mountpoint, wire
from lib import server as lib_server

from .cases import FIRST, KIB, Case
from .client import Request
from .reads import ask

IDLE, ACTIVE = 2000, 200
DELAY, FILE, RANGE = 200, 1 << 30, 16 * KIB
"""Milliseconds that the slow disk takes for a read; bytes of its file and of each range that is asked for."""
SMALL_CONNECTIONS = 8


def all_cases(ground):
    """The one case; none where nothing may be mounted."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        return []
    seen = {}

    def sample(label):
        def measure(_turn):
            if not seen:
                seen.update(run(ground))
            return seen[label]
        return measure

    labels = ("undisturbed", "beside a slow disk")
    return [Case("GET 4 KiB beside a slow disk", "request", {label: sample(label) for label in reversed(labels)}, labels[1], labels[0], when=FIRST,
                 note=f"{IDLE:,} idle connections, {ACTIVE} that ask for ranges of a file whose disk takes {DELAY} ms for a read; in another bucket {SMALL_CONNECTIONS} that are measured")]


def run(ground):
    """Both samples, of the same daemon."""
    root = ground.mount / "mixed"
    (root / "fast").mkdir(parents=True)
    objects = [(f"/fast/{i:03}", i * 4 * KIB, 4 * KIB) for i in range(256)]
    with open(ground.client.bodies, "rb") as bodies:
        for target, _, length in objects:
            (root / target.lstrip("/")).write_bytes(bodies.read(length))
    with slow_disk(ground, root / "slow"), ground.fresh("twintree", root) as server:
        def measured():
            return ask(ground, server, "GET", objects, SMALL_CONNECTIONS, 2 * ground.scale.small)

        measured()  # every file is known, and every thread there is
        undisturbed = measured()
        with idle(server), waiting(ground, server):
            lib_server.wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/fd")) > IDLE + ACTIVE, "all connections stand")
            beside = measured()
    return {"undisturbed": undisturbed, "beside a slow disk": beside}


@contextlib.contextmanager
def slow_disk(ground, folder):
    """The slow disk, mounted as a bucket."""
    folder.mkdir()
    process = subprocess.Popen([ground.client.binary, "slow", "--dir", str(folder), "--bytes", str(FILE), "--delay", str(DELAY)], stdout=subprocess.DEVNULL)
    try:
        lib_server.wait_until(lambda: mountpoint.is_mounted(folder), "the slow disk is mounted")
        yield
    finally:
        mountpoint.unmount(folder)
        process.wait(20)


@contextlib.contextmanager
def idle(server):
    """Connections without a request."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, IDLE + 500)), hard))
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        yield


@contextlib.contextmanager
def waiting(ground, server):
    """Connections that ask for ranges of the slow disk's file, none of them read before, until they are no longer wanted."""
    source, signer = random.Random(6), wire.Signer()
    requests = []
    for at in source.sample(range(FILE // RANGE), 8192):
        headers = {"range": f"bytes={at * RANGE}-{(at + 1) * RANGE - 1}"}
        requests.append(Request(server.head("GET", "/slow/large", headers, signer=signer), length=RANGE))
    with ground.client.beside(server, requests, connections=ACTIVE, status=206):
        yield
