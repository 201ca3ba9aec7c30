"""What the daemon asks of the kernel, in order: strace attached to it while something is done."""

import os
import re
import signal
import subprocess

import pytest

from . import server

CALLS = "fsync,fdatasync,syncfs,link,linkat,rename,renameat,renameat2,unlinkat,mkdirat,write,writev,sendto,sendmsg"
LINE = re.compile(r"^(\d+) +(.*)$")
CALL = re.compile(r"^(\w+)\((.*)$")
RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")


class Event:
    """One system call: its thread, its name, its arguments and result as text, and its place in time."""

    def __init__(self, thread, name, words, begun):
        self.thread, self.name, self.words, self.begun, self.ended = thread, name, words, begun, None

    @property
    def result(self):
        """What it gave, as text; an error begins with `-1 E...`."""
        return self.words.rpartition(" = ")[2].strip()

    @property
    def failed(self):
        return self.result.startswith("-1 ")

    def __repr__(self):
        return f"{self.name}({self.words[:160]}"


class Trace:
    """`with Trace(daemon, file) as trace: ...`, then `trace.events`."""

    def __init__(self, daemon, file, slow=(), calls=CALLS, shown=64, fails=(), error="EIO:delay_enter=30000"):
        self.slow, self.calls, self.shown, self.fails, self.error = slow, calls, shown, fails, error
        self.pid, self.file, self.events = daemon.pid, file, []

    def _slowed(self):
        """Makes these calls take 30 ms each: what is at once on a slow disk is at once on a fast one too."""
        return ("-e", f"inject={','.join(self.slow)}:delay_enter=30000") if self.slow else ()

    def _failed(self):
        """Makes each of these calls fail: if nothing else is said with EIO, after a while, so that others wait for it too."""
        return ("-e", f"inject={','.join(self.fails)}:error={self.error}") if self.fails else ()

    def __enter__(self):
        try:
            self.process = subprocess.Popen(["strace", "-f", "-y", "-s", str(self.shown), "-o", str(self.file), "-e", f"trace={self.calls}", *self._slowed(), *self._failed(), "-p", str(self.pid)],
                                            stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            pytest.skip("needs strace")
        line = self.process.stderr.readline()
        if "attached" not in line:
            pytest.skip(f"strace may not attach here: {line.strip()}")
        # All threads that there are now must be traced before anything is done.
        server.wait_until(lambda: self._traced(), "strace holds every thread")
        return self

    def _traced(self):
        return all(is_traced(self.pid, task) for task in os.listdir(f"/proc/{self.pid}/task"))

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=20)
        self.events = list(parse(self.file.read_text(errors="replace")))


def is_traced(pid, task):
    """Is a thread in a tracer's hands (or gone)?"""
    try:
        with open(f"/proc/{pid}/task/{task}/status") as status:
            return "TracerPid:\t0\n" not in status.read()
    except FileNotFoundError:
        return True


def parse(text):
    """Events in the order of their beginning."""
    waiting = {}
    for number, line in enumerate(text.splitlines()):
        match = LINE.match(line)
        if not match:
            continue
        thread, rest = match.groups()
        if resumed := RESUMED.match(rest):
            event = waiting.pop(thread, None)
            if event:
                event.ended = number
                event.words += resumed.group(2)
        elif call := CALL.match(rest):
            event = Event(int(thread), call.group(1), call.group(2), number)
            if rest.endswith("<unfinished ...>"):
                event.words = event.words.removesuffix("<unfinished ...>")
                waiting[thread] = event
            else:
                event.ended = number
            yield event


def first(events, what, names, needle, after=-1):
    """The first call of these names whose words hold `needle`, begun after a line of the trace; fails when there is none."""
    for event in events:
        if event.name in names and needle in event.words and event.begun > after and event.ended is not None:
            return event
    raise AssertionError(f"{what}: no {'/'.join(names)} of {needle!r} after line {after} in {events}")
