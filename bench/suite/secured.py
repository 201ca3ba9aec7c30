"""GET over TLS, beside nginx with TLS: whole objects, ranges, and readers that are slow.

The client is Python's ssl in threads: what is compared is the servers' CPU. Both must have chosen the same cipher.
"""

import socket
import ssl
import subprocess
import threading
import time

from lib import wire

from . import servers
from .cases import BIG, MIB, Case
from .client import Sample

PATIENCE = 60
RECEIVE = 256 << 10
SLOW_RECEIVE, SLOW_PAUSE = 64 << 10, 0.002
"""A slow reader takes so many bytes at a time, and then waits so many seconds."""


class Pair:
    """The two servers with a certificate, started at first use."""

    def __init__(self, ground):
        self.ground = ground
        self.servers = {}
        self.cipher = None

    def server(self, label):
        if not self.servers:
            ground, folder = self.ground, self.ground.state
            certificate, key = folder / "tls.pem", folder / "tls.key"
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
                            "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
            self.servers["twintree"] = ground.keep(servers.Twintree(ground.root, folder / "secured", "strict", "--tls-cert", certificate, "--tls-key", key))
            self.servers["nginx"] = ground.keep(servers.Nginx(ground.root, folder / "nginx-secured", ground.mount / "nginx", ground.programs["nginx"], (certificate, key)))
        return self.servers[label]

    def connect(self, server, buffer=None):
        """A connection; the cipher must be everybody's."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = socket.socket()
        if buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        plain.settimeout(PATIENCE)
        plain.connect(("127.0.0.1", server.port))
        secured = context.wrap_socket(plain, suppress_ragged_eofs=False)
        self.cipher = self.cipher or secured.cipher()
        if secured.cipher() != self.cipher:
            raise SystemExit(f"no comparison: one server takes {self.cipher}, {server.label} {secured.cipher()}")
        return secured


def all_cases(ground):
    """Every case of this file; none without nginx."""
    if not ground.nginx:
        return []
    pair = Pair(ground)
    # (name, connections, requests of each, bytes of each, a range or the whole object, slow readers)
    shapes = [("GET 256 MiB over TLS, 2 connections", 2, 1, BIG, False, False), ("GET ranges of 1 MiB over TLS, 4 connections", 4, 64, MIB, True, False),
              ("GET over TLS, 16 slow readers", 16, 1, 8 * MIB, True, True)]
    return [Case(name, "GB", {label: _get(ground, pair, label, *shape) for label in ("twintree", "nginx")}, "twintree", "nginx") for name, *shape in shapes]


def _get(ground, pair, label, connections, count, length, ranged, slow):
    def measure(_turn):
        server = pair.server(label)
        signer = wire.Signer()

        def head(index):
            at = index * length % BIG
            return at, server.head("GET", "/data/big", {"range": f"bytes={at}-{at + length - 1}"} if ranged else {}, signer=signer)

        heads = [[head(one * count + index) for index in range(count)] for one in range(connections)]
        with pair.connect(server) as checked, open(ground.client.bodies, "rb") as bodies:
            at, asked = heads[-1][-1]
            bodies.seek(at)
            if bytes(_receive(checked, asked, length, keep=True)) != bodies.read(length):
                raise SystemExit(f"{server.label}: another body than there is")
        failures = []

        def work(one):
            try:
                with pair.connect(server, SLOW_RECEIVE if slow else None) as connection:
                    for _, asked in heads[one]:
                        _receive(connection, asked, length, slow=slow)
            except (OSError, SystemExit, ValueError) as failure:
                failures.append(failure)

        before, began = server.cpu(), time.monotonic()
        threads = [threading.Thread(target=work, args=(one,)) for one in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall = time.monotonic() - began
        if failures:
            raise SystemExit(f"{server.label}: {failures[0]!r}")
        return Sample(server.cpu() - before, wall, connections * count * length / 1e9)
    return measure


def _receive(connection, asked, length, *, keep=False, slow=False):
    """Asks, and takes a body of exactly that length; gives it when it is to be kept."""
    connection.sendall(asked)
    buffer, filled = bytearray(RECEIVE), b""
    while b"\r\n\r\n" not in filled:
        piece = connection.recv(16384)
        if not piece:
            raise ValueError(f"closed within a head: {filled[:200]!r}")
        filled += piece
    head, _, rest = filled.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1] not in (b"200", b"206") or f"content-length: {length}" not in head.decode().lower().split("\r\n"):
        raise ValueError(f"not the answer that was wanted: {head!r}")
    body, left = bytearray(rest if keep else b""), length - len(rest)
    while left:
        got = connection.recv_into(buffer, min(left, SLOW_RECEIVE if slow else RECEIVE))
        if not got:
            raise ValueError(f"{left} bytes are lacking")
        left -= got
        if keep:
            body += buffer[:got]
        if slow:
            time.sleep(SLOW_PAUSE)
    return body
