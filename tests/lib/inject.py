"""One system call of one operation, struck: strace kills the daemon at it, or lets it fail.

An operation runs on few threads: the async one that reads the request and answers, and those of the blocking pool. A
strike names the call and its number in its thread, counted from the moment strace is attached: `inject=NAME:when=N`
counts in each thread apart.

`signal=KILL` strikes where the call begins: the kernel ends the process before it runs the call (a fatal signal that
is pending when the tracer lets a call go on skips it), so that a kill at a call stands between it and the one before.
What is on disk after a call is what is there when the next one is struck.
"""

import collections
import os
import pathlib
import re
import signal
import subprocess

import pytest

from . import server, trace

# Calls that name no file and no descriptor: nothing on disk or on the wire is another one after them.
APART = {"futex", "epoll_wait", "epoll_pwait", "sched_yield", "clock_nanosleep", "nanosleep", "restart_syscall", "mmap", "munmap",
         "mprotect", "madvise", "mremap", "brk", "getrandom", "clone", "clone3", "rseq", "set_robust_list", "sigaltstack",
         "rt_sigprocmask", "rt_sigaction", "prctl", "gettid", "getpid", "exit", "sched_getaffinity", "uname"}
# What changes the tree, or who may.
CHANGES = {"openat", "openat2", "write", "pwrite64", "writev", "pwritev", "pwritev2", "fsetxattr", "fremovexattr", "fchmod", "fchmodat", "fchown",
           "fchownat", "utimensat", "fsync", "fdatasync", "syncfs", "sync_file_range", "linkat", "renameat", "renameat2", "unlinkat",
           "mkdirat", "symlinkat", "fallocate", "ftruncate", "copy_file_range", "ioctl", "flock", "fcntl", "sendfile"}
ONE_WORKER = {"TOKIO_WORKER_THREADS": "1"}
Point = collections.namedtuple("Point", "role name number words")
"""A call: who makes it, its name, its number of that name in that thread, its arguments."""


class Threads:
    """Which thread does what. Taken when the blocking pool has begun to work."""

    def __init__(self, daemon, before):
        tasks = set(tids(daemon))
        tokio = {tid for tid in tasks if comm(daemon, tid).startswith("tokio")}
        self.by_role = {"async": sorted(tokio & before), "blocking": sorted(tokio - before)}

    def role(self, tid):
        """The role of a thread; one that began later has none."""
        return next((role for role, tasks in self.by_role.items() if tid in tasks), None)


def tids(daemon):
    """The daemon's threads."""
    return {int(task) for task in os.listdir(f"/proc/{daemon.pid}/task")}


def comm(daemon, tid):
    """A thread's name."""
    try:
        return pathlib.Path(f"/proc/{daemon.pid}/task/{tid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


def points(events, threads):
    """Every call of an operation that can be struck, in order, up to the answer."""
    counts = collections.Counter()
    found = []
    for event in events:
        role = threads.role(event.thread)
        if role is None or event.name in APART:
            continue
        counts[event.thread, event.name] += 1
        # Waking threads, and what the debug build asks before it closes a descriptor.
        if "anon_inode:[event" in event.words.split(",")[0] or "F_GETFD)" in event.words:
            continue
        found.append(Point(role, event.name, counts[event.thread, event.name], event.words))
    return found


def strangers(daemon, events, threads):
    """Did a thread of the pool make calls that had not begun when the roles were taken?"""
    known = {task for tasks in threads.by_role.values() for task in tasks}
    return any(event.thread not in known and event.name not in APART and comm(daemon, event.thread).startswith("tokio") for event in events)


def changes(point):
    """Does this call change anything on disk, or take a lock?"""
    if point.name in ("openat", "openat2"):
        return "O_CREAT" in point.words or "O_TMPFILE" in point.words
    if point.name == "fcntl":
        return "F_OFD_SETLK" in point.words
    if point.name in ("write", "writev"):
        return "socket:" not in point.words and not point.words.startswith("2<")
    return point.name in CHANGES


class Strike:
    """`with Strike(...) as strike:` the daemon's calls are struck; `strike.hit` says afterwards whether one was."""

    def __init__(self, daemon, tasks, point, what, log):
        self.daemon, self.log, self.tasks = daemon, pathlib.Path(log), tasks
        self.words = ["strace", "-y", "-o", str(log), "-e", f"trace={point.name}", "-e", f"inject={point.name}:{what}:when={point.number}"]
        self.killed = what.startswith("signal=KILL")

    def __enter__(self):
        self.log.unlink(missing_ok=True)
        for task in self.tasks:
            self.words += ["-p", str(task)]
        try:
            self.process = subprocess.Popen(self.words, stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            pytest.skip("needs strace")
        for _ in self.tasks:
            line = self.process.stderr.readline()
            if "attached" not in line:
                pytest.skip(f"strace may not attach here: {line.strip()}")
        server.wait_until(lambda: all(trace.is_traced(self.daemon.pid, task) for task in self.tasks), "strace holds the threads")
        return self

    def __exit__(self, *_):
        if self.daemon.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=20)

    @property
    def hit(self):
        """The arguments of the call that was struck; `None`: none was."""
        lines = self.log.read_text(errors="replace").splitlines()
        if self.killed and not any("killed by SIGKILL" in line for line in lines):
            return None
        struck = (" = ?", "<unfinished") if self.killed else ("(INJECTED)",)
        calls = [line.partition("(")[2] for line in lines if any(word in line for word in struck) and " resumed>" not in line]
        return calls[-1] if calls else None


def same(one, other):
    """Are these the arguments of the same call in two runs? Descriptors, names made by chance, times and bytes differ."""
    return shape(one) == shape(other)


def shape(words):
    """What a call is about: its first descriptor, its first name, the kind of lock; where it begins no more is known."""
    first = re.match(r"[^,)]*", words).group()
    name = re.search(r'^[^"]*"([\w./%=~-]*)"', words)
    lock = re.search(r"l_type=\w+", words)
    about = " ".join([first, name.group(1) if name else "", lock.group() if lock else ""])
    return re.sub(r"[0-9a-f]{16,}|#?\d+", "N", about).strip()
