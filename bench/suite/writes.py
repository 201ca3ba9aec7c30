"""PUT: large objects on one stream and on sixteen, and small ones, durable and not."""

import base64
import hashlib
import mmap
import re
import time
import zlib

from lib import server as lib_server
from lib import wire

from . import place
from .cases import BIG, FIRST, KIB, Case
from .client import Sample, command

STREAMS = 16
STRACE_SECONDS = 20
"""How long strace may take to end after the daemon has."""


def all_cases(ground):
    """Every case of this file."""
    return [*large(ground), hashed(ground), *small(ground), syncs(ground)]


def large(ground):
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

    def opaque(turn):
        return put(ground.relaxed_with("opaque", "--etag", "crc64"), "opaque")(turn)

    yield Case("PUT 256 MiB, relaxed", "GB",
               {"twintree": put(ground.relaxed, "relaxed"), "cp": copy(), "cp + md5sum": copy(["md5sum"]), "MD5 alone": lambda _turn: digest_alone(ground),
                **{label: put(server, label) for label, server in ground.peers.items()}},
               "twintree", "cp + md5sum", note="the other gateways sync nothing; MD5 alone: OpenSSL's, of bytes in memory")
    yield Case("PUT 256 MiB, etag = crc64, relaxed", "GB", {"twintree": opaque, "cp": copy()}, "twintree", "cp", note="no MD5 is computed")
    yield Case("PUT 256 MiB, strict", "GB",
               {"twintree": put(ground.strict, "strict"), "cp + md5sum + sync": copy(["md5sum"], ["sync"])},
               "twintree", "cp + md5sum + sync")
    body = ground.client.bodies.read_bytes()
    sha256 = hashlib.sha256(body).hexdigest()
    crc32 = {"x-amz-checksum-crc32": base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()}
    del body
    yield Case("PUT 256 MiB as boto3 sends it (SHA-256 signed, CRC32), relaxed", "GB",
               {"twintree": put(ground.relaxed, "sha", crc32, sha256), "cp + md5sum + sha256sum": copy(["md5sum"], ["sha256sum"]),
                **({"versitygw": put(ground.versitygw, "vgw-sha", crc32, sha256)} if ground.versitygw else {})},
               "twintree", "cp + md5sum + sha256sum")


def digest_alone(ground):
    """One MD5 of the body's bytes, with nothing around it."""
    with open(ground.client.bodies, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as body:
        sum(body[::mmap.PAGESIZE])  # every page is mapped before it counts
        cpu, wall = time.process_time(), time.monotonic()
        hashlib.md5(body).digest()
        return Sample(time.process_time() - cpu, time.monotonic() - wall, len(body) / 1e9)


def hashed(ground):
    """Sixteen PUTs at once, whose MD5s may share a core's lanes; beside the same daemon with one scalar hash inline, and with AVX2."""

    def put(label, kernel):
        def measure(turn):
            server, size = ground.relaxed, ground.scale.stream
            if kernel:
                server = ground.relaxed_with(f"hash-{kernel}", environment={"TWINTREE_HASH_KERNEL": kernel})
            place.flush(ground.mount)
            objects = [(f"/put/streams/{label.replace(' ', '-')}-{turn}-{i}", i * KIB, size) for i in range(STREAMS)]
            said, cpu = ground.put(server, objects, connections=STREAMS)
            ground.read_back(server, objects)
            ground.clear(server.root / "put" / "streams")
            return Sample(cpu, said["wall"], STREAMS * size / 1e9)
        return measure

    kernels = {"twintree": "", "scalar": "none", "AVX2": "avx2"}
    return Case("PUT, 16 streams with MD5", "GB", {label: put(label, kernel) for label, kernel in kernels.items()}, "twintree", "scalar",
                note="relaxed; scalar and AVX2: the same daemon with TWINTREE_HASH_KERNEL=none and =avx2")


def small(ground):
    """PUT of 4 KiB to new keys of one directory; every eighth is read back."""
    count = ground.scale.puts

    def put(server, label, connections, count=count, bucket="put"):
        def measure(turn):
            folder = server.root / bucket / "tiny"
            place.flush(folder if folder.is_dir() else server.root / bucket)
            objects = [(f"/{bucket}/tiny/{label}-{turn}-{i:06}", i * 4 * KIB, 4 * KIB) for i in range(count)]
            said, cpu = ground.put(server, objects, connections=connections)
            ground.read_back(server, objects[::8])
            ground.clear(folder)
            return Sample(cpu, said["wall"], said["answers"], also={"p99 ms": said["p99"] * 1e3})
        return measure

    def raw(threads, sync, count=count, below=ground.mount):
        def measure(_turn):
            folder = below / "raw"
            folder.mkdir(exist_ok=True)
            place.flush(folder)
            cpu, wall = ground.client.raw(folder, count, threads, 4 * KIB, sync)
            ground.clear(folder)
            return Sample(cpu, wall, count)
        return measure

    def dav(turn):
        place.flush(ground.mount)
        objects = [(f"/dav/{turn}-{i:06}", i * 4 * KIB, 4 * KIB) for i in range(count)]
        said, cpu = ground.put(ground.nginx, objects, connections=32)
        _compare(ground.mount / "nginx" / "dav", objects[::8], ground.client.bodies)
        ground.clear(ground.mount / "nginx" / "dav")
        return Sample(cpu, said["wall"], said["answers"])

    def discarded(turn):
        said, cpu = ground.put(ground.relaxed, [(f"/nowhere/{turn}-{i:06}", i * 4 * KIB, 4 * KIB) for i in range(count)], connections=32, status=404)
        return Sample(cpu, said["wall"], said["answers"])

    relaxed = {"twintree": put(ground.relaxed, "relaxed", 32), "raw calls, 1 thread": raw(1, False), "discarded": discarded}
    if ground.nginx:
        relaxed["nginx DAV"] = dav
    relaxed |= {label: put(server, label, 32, count // 2) for label, server in ground.peers.items()}
    yield Case("PUT 4 KiB, relaxed, 32 connections", "request", relaxed, "twintree", "nginx DAV" if ground.nginx else "raw calls, 1 thread",
               note="nobody syncs anything; nginx keeps no metadata, hash or signature; discarded: verified, received, and answered 404 for want of a bucket")
    durable = "raw calls, fdatasync + link + fsync(dir) each"
    few = count // 16
    for kind, below in ground.journaled.items():
        bucket, where = ("put", "") if kind == "ext4" else (below.name, f", {kind}")
        yield Case(f"PUT 4 KiB, strict, 64 connections{where}", "request",
                   {"twintree": put(ground.strict, "strict64", 64, bucket=bucket), durable: raw(64, True, below=below)}, "twintree", durable, note="wall is what counts")
    yield Case("PUT 4 KiB, strict, 1 connection", "request",
               {"twintree": put(ground.strict, "strict1", 1, few), durable: raw(1, True, few)}, "twintree", durable, note="wall is what counts")


def _compare(folder, objects, bodies):
    with open(bodies, "rb") as want:
        for target, offset, length in objects:
            want.seek(offset)
            if (folder / target.rpartition("/")[2]).read_bytes() != want.read(length):
                raise SystemExit(f"nginx keeps another body than was sent: {target}")


def syncs(ground):
    """How many syncs strict PUTs take: strace counts them, so that nothing else of such a run means anything."""

    def counted(connections, count):
        def measure(_turn):
            file = ground.state / f"syncs-{connections}"
            objects = [(f"/put/tiny/traced{connections}-{i:06}", i * 4 * KIB, 4 * KIB) for i in range(count)]
            with ground.fresh("twintree", ground.root, wrapper=traced(file, "fsync,fdatasync,syncfs")) as server:
                began = time.time()
                ground.put(server, objects, connections=connections)
                ended = time.time()
            ground.clear(ground.root / "put" / "tiny")
            calls = [moment for moment, _ in traced_calls(file, server.pid) if began <= moment <= ended]
            return Sample(0, 0, 0, also={"syncs for each PUT": len(calls) / count})
        return measure

    return Case("Syncs of strict PUTs of 4 KiB", "", {"64 connections": counted(64, ground.scale.puts), "1 connection": counted(1, 128)}, "64 connections",
                note="by strace", when=FIRST)


def traced(file, calls):
    """The words before a daemon's command line that have strace write down these calls; the process stays the daemon."""
    return ["strace", "-D", "-f", "-y", "-ttt", "--seccomp-bpf", "-e", f"trace={calls}", "-o", str(file)]


def traced_calls(file, pid):
    """What strace wrote of a daemon that has ended: (moment, words) of each call."""
    def ended():
        return re.search(rf"^{pid} .*\+\+\+ exited", file.read_text(errors="replace"), re.MULTILINE)

    lib_server.wait_until(ended, "strace has written everything down", STRACE_SECONDS)
    for line in file.read_text(errors="replace").splitlines():
        found = re.match(r"^\d+ +(\d+\.\d+) (\w+\(.*)$", line)
        if found:
            yield float(found[1]), found[2]
