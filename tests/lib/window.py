"""When a publish looked at the object and when it replaced it: strace with the time of every call, and its descriptors' paths."""

import dataclasses
import re
import signal
import subprocess

import pytest

from . import server, trace

LOOK, REPLACE = ("openat2",), ("renameat", "renameat2", "linkat", "unlinkat")
LINE = re.compile(r"^(\d+) +(\d+\.\d+) (?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*?)(?:<([\d.]+)>|<unfinished \.\.\.>)$")


@dataclasses.dataclass
class Call:
    """One system call of one thread, in seconds of the wall clock."""

    thread: str
    name: str
    words: str
    begun: float
    ended: float = None

    @property
    def done(self):
        """Did it do what it was asked?"""
        return re.search(r"= \d", self.words) is not None


class Clocked(trace.Trace):
    """A trace of looks and replacements, or of other calls; `slow` milliseconds are added before each, so that there is something to hit."""

    def __init__(self, daemon, file, slow=0, names=LOOK + REPLACE, also=()):
        super().__init__(daemon, file)
        self.delay, self.names, self.also = slow * 1000, ",".join(names), also

    def __enter__(self):
        slowed = ["-e", f"inject={self.names}:delay_enter={self.delay}"] if self.delay else []
        try:
            self.process = subprocess.Popen(["strace", "-f", "-y", "-ttt", "-T", "-s", "200", "-o", str(self.file), "-e", f"trace={self.names}", *slowed, *self.also,
                                             "-p", str(self.pid)], stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            pytest.skip("needs strace")
        line = self.process.stderr.readline()
        if "attached" not in line:
            pytest.skip(f"strace may not attach here: {line.strip()}")
        server.wait_until(lambda: self._traced(), "strace holds every thread")
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=20)
        self.events = list(calls(self.file.read_text(errors="replace")))


def calls(text):
    """All calls, in the order of their beginning."""
    found, waiting = [], {}
    for line in text.splitlines():
        match = LINE.match(line)
        if not match:
            continue
        thread, at, name, words, took = match.groups()
        if " resumed>" in line and (thread, name) in waiting:
            call = waiting.pop((thread, name))
            call.words += words
            call.ended = float(at)
        else:
            call = Call(thread, name, words, float(at))
            found.append(call)
            if took is None:
                waiting[thread, name] = call
            else:
                call.ended = call.begun + float(took)
    return found


def windows(events, name):
    """For each replacement of `name` that looked at it before: (the last look's beginning, its own beginning, its end)."""
    found, looked = [], {}
    for call in events:
        if call.ended is None or f'"{name}"' not in call.words:
            continue
        if call.name in LOOK:
            looked[call.thread] = call
        elif call.done and call.thread in looked:
            found.append((looked.pop(call.thread).begun, call.begun, call.ended))
    return found
