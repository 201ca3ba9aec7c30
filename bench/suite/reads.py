"""GET and HEAD: large, middle and small objects, and files that nobody PUT."""

from lib import wire

from .cases import BIG, KIB, MIB, Case
from .client import Request, Sample
from .servers import received


def all_cases(ground):
    """Every case of this file."""
    return [*large(ground), *small(ground), plain(ground)]


def large(ground):
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
        ("GET 256 MiB, 1 connection", big, 1, scale.big, False),
        ("GET 256 MiB, 16 connections", big, 16, scale.many_big, False),
        ("GET 256 MiB, 1 connection, client copies", big, 1, scale.big, True),
        ("GET 1 MiB, 8 connections", middle, 8, scale.middle, False),
        ("GET 1 MiB, 64 connections", middle, 64, scale.middle, False),
    ]
    for name, objects, connections, count, copy in shapes:
        # rclone takes seconds of CPU for a GB: a fourth of it says as much.
        shares = {label: max(count // 4, 1) if label == "rclone" else count for label, _ in ground.readers()}
        variants = {label: get(server, objects, connections, shares[label], copy) for label, server in ground.readers()}
        yield Case(name, "GB", variants, "twintree", "nginx")


def ask(ground, server, method, objects, connections, count):
    """The same few objects again and again; every byte is compared."""
    signer = wire.Signer()
    requests = [Request(server.head(method, target, signer=signer), length=length, want=-1 if method == "HEAD" else offset, bodiless=method == "HEAD")
                for target, offset, length in objects]
    before = received(server.pid)
    said, cpu = ground.client.load(server, requests, connections=connections, count=count)
    read = (received(server.pid) - before) / said["answers"]
    return Sample(cpu, said["wall"], said["answers"], also={"p99 ms": said["p99"] * 1e3, "bytes read for each": read})


def small(ground):
    """4 KiB GETs and HEADs, signed in the head; nginx is asked unsigned."""
    objects = [(f"/data/small/{i:03}", i * 4 * KIB, 4 * KIB) for i in range(256)]

    def read(label, server, method, connections):
        count = ground.scale.slow_small if label in ground.peers else ground.scale.small
        return lambda _round: ask(ground, server, method, objects, connections, count)

    for method, connections, name in (("GET", 64, "GET 4 KiB, signed, 64 connections"), ("HEAD", 32, "HEAD, signed, 32 connections")):
        variants = {label: read(label, server, method, connections) for label, server in ground.readers()}
        yield Case(name, "request", variants, "twintree", "nginx")


def plain(ground):
    """HEAD of files that came by themselves, beside those that were PUT."""
    sealed = [(f"/data/small/{i:03}", 0, 4 * KIB) for i in range(256)]
    variants = {label: lambda _round, objects=objects: ask(ground, ground.strict, "HEAD", objects, 32, ground.scale.small)
                for label, objects in (("nobody PUT it", ground.plain()), ("it was PUT", sealed))}
    return Case("HEAD of a file nobody PUT", "request", variants, "nobody PUT it", "it was PUT", note="twintree beside itself")
