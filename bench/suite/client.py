"""The cheap clients: the compiled load client, plain commands, and one signed request at a time."""

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import struct
import subprocess
import time

from lib import wire

ENDLESS = 1 << 40
"""So many requests that they do not end before somebody ends them."""
RUN_SECONDS = 180
"""No measurement takes longer: a hang becomes a failure."""


class Refused(SystemExit):
    """The load client got another answer than it was told to expect, or none."""


PEERS, ATTEMPTS = ("versitygw", "rclone"), 3


def answered(label, work):
    """What `work` gives. A peer that gave a wrong answer is asked once more: rclone's server now and then answers 500 to a
    small PUT; ours may not."""
    for attempt in range(ATTEMPTS):
        try:
            return work()
        except Refused as refused:
            if label not in PEERS or attempt + 1 == ATTEMPTS:
                raise
            print(f"once more, since {refused}: ", end="", flush=True)


@dataclasses.dataclass
class Sample:
    """One measurement: CPU of the server and wall, in seconds, for so much work. In a mount part of the work is done in the
    program's own system calls: there `cpu` counts the program as well, and `daemon` says how much of it was servers'.
    `also`: figures by name that are no cost of a unit of work, such as bytes, counts, and what 99 of 100 answers took."""

    cpu: float
    wall: float
    work: float
    daemon: float = 0.0
    also: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Request:
    """One line of a plan: the head as sent, and what to send and expect (offsets into the body file)."""

    head: bytes
    send: tuple = (0, 0)
    length: int = -1
    want: int = -1
    bodiless: bool = False

    def packed(self):
        """As bench/client/src/plan.rs reads it."""
        return struct.pack("<IIqqqq", len(self.head), int(self.bodiless), *self.send, self.length, self.want) + self.head


class Client:
    """Runs the load client; `bodies` is the file that requests send from and answers are compared with; None: there are no requests."""

    def __init__(self, binary, folder, bodies):
        self.binary, self.folder, self.bodies = str(binary), folder, bodies

    def _run(self, words):
        done = subprocess.run([self.binary, *(str(word) for word in words)], capture_output=True, text=True, timeout=RUN_SECONDS)
        if done.returncode != 0:
            raise Refused(f"{words[:9]}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def load(self, server, requests, *, connections=1, count=None, status=200, copy=False):
        """Replays the requests, `count` in all, and gives (answer of the client, CPU seconds of the server)."""
        words = self._words("plan", server, requests, connections, count or len(requests), status)
        if any(request.want >= 0 for request in requests):
            words += ["--want", self.bodies]
        if any(request.send[1] for request in requests):
            words += ["--send", self.bodies]
        if copy:
            words += ["--copy", 1]
        before = server.cpu()
        said = self._run(words)
        return said, server.cpu() - before

    def _words(self, name, server, requests, connections, count, status):
        """The command line of a load, whose plan is written into a file of that name."""
        plan = self.folder / name
        plan.write_bytes(b"".join(request.packed() for request in requests))
        return ["load", "--address", server.address, "--connections", connections, "--requests", count, "--status", status, "--plan", plan]

    @contextlib.contextmanager
    def beside(self, server, requests, *, connections, status):
        """A load that goes on while something else is done; it must still go on afterwards."""
        words = self._words("plan-beside", server, requests, connections, ENDLESS, status)
        with subprocess.Popen([self.binary, *(str(word) for word in words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield
                if process.poll() is not None:
                    raise SystemExit(f"the load beside it has ended: {process.stderr.read().strip()}")
            finally:
                process.kill()

    def files(self, op, path, count, **options):
        """Does with files what programs do; gives wall and its own CPU seconds."""
        words = ["files", "--op", op, "--path", path, "--count", count]
        for name, value in options.items():
            words += [f"--{name}", value]
        said = self._run(words)
        return said["wall"], said["cpu"]

    def many(self, folder, files, folders=None):
        """Makes so many files in a folder, or in each of so many folders in it."""
        self._run(["many", "--dir", folder, "--files", files, *(["--folders", folders] if folders else [])])

    def names(self, folder, count):
        """Reads a folder's names and sorts them; gives our own CPU, and wall."""
        return command([self.binary, "names", "--dir", str(folder), "--count", str(count)])

    def raw(self, folder, files, threads, size, sync):
        """Makes files by plain system calls; gives wall and our own CPU."""
        words = ["raw", "--dir", folder, "--files", files, "--threads", threads, "--bytes", size, *(["--sync", 1] if sync else [])]
        return command([self.binary, *(str(word) for word in words)])


def command(words):
    """Runs a command; gives its CPU and wall seconds."""
    started = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{words}: ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, wall


class Asker:
    """One connection that asks one thing at a time and times it."""

    def __init__(self, server):
        self.server = server
        self.connection = wire.Connection(None, url=f"http://{server.address}", seconds=120)

    def ask(self, method, target, body=b"", status=200):
        """Asks; gives the answer and the wall seconds from sending to the last byte."""
        headers = {"content-length": len(body)} if method in ("PUT", "POST") else {}
        head = self.server.head(method, target, headers)
        started = time.monotonic()
        self.connection.socket.sendall(head + body)
        answer = self.connection.answer(method)
        wall = time.monotonic() - started
        if answer.status != status:
            raise SystemExit(f"{self.server.label}: {method} {target}: {answer}")
        return answer, wall

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()


def write_bodies(path, size):
    """Seeded random bytes that requests send and answers are compared with."""
    source = random.Random(20)
    with open(path, "wb") as file:
        for _ in range(size >> 20):
            file.write(source.randbytes(1 << 20))
    return pathlib.Path(path)
