"""Power cuts: a real filesystem on a disk that keeps every write and flush in order, and that disk again as it
was at any moment.

`tests/blocklog` serves the disk's image with FUSE; a loop device sits on it, the filesystem on that. What a
cut leaves is all that was written up to the last flush that had ended, and of what was written later nothing,
everything, the first of it, or any of it, torn at 4 KiB.
"""

import contextlib
import ctypes
import functools
import json
import os
import pathlib
import shutil
import struct
import subprocess

import pytest

from . import server

PROGRAM = pathlib.Path(server.BINARY).with_name("twintree-blocklog")
RECORD = struct.Struct("<IIQ")
WRITE, FLUSH, MARK = 1, 2, 3
PAGE = 4096
NEW_MOUNTS = 0x20000
"""CLONE_NEWNS of unshare(2)."""
KEPT = ("none", "all", "first", "some")
"""What a disk may keep of the writes since its last flush."""


class Kind:
    """A filesystem that power is cut under: its size, how it is made, how it is mounted."""

    def __init__(self, name, megabytes, make, options="", again=""):
        self.name, self.megabytes, self.make = name, megabytes, make.split()
        self.options, self.again = options, again


KINDS = {
    "ext4": Kind("ext4", 192, "mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 -J size=8"),
    # Names may come to the disk long before their bytes do: ext4 is no gentle disk then.
    "ext4-writeback": Kind("ext4", 192, "mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 -J size=8", "data=writeback"),
    "xfs": Kind("xfs", 320, "mkfs.xfs -q -f -K", again="nouuid"),
    "btrfs": Kind("btrfs", 256, "mkfs.btrfs -q -f -K -m single -d single"),
}


def run(*command):
    """Runs a command that must succeed; gives what it printed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr.strip()}"
    return done.stdout.strip()


def copy(source, target):
    """A copy of an image with its holes."""
    run("cp", "--sparse=always", source, target)


@functools.cache
def alone():
    """Gives this process mounts of its own, so that no other that copies the mounts of all keeps ours busy; None, or why not."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNTS) != 0:
        return f"mounting is not allowed here: {os.strerror(ctypes.get_errno())}"
    run("mount", "--make-rprivate", "/")
    return None


@contextlib.contextmanager
def room(folder):
    """A file system in memory for images: what power is cut from there costs no disk."""
    folder.mkdir()
    if alone():
        pytest.skip(alone())
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "twintree-test", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        run("umount", folder)


def backing(device):
    """The file under a loop device, None where there is none (any more); somebody else's may have come there since."""
    try:
        return (pathlib.Path("/sys/block") / pathlib.Path(device).name / "loop" / "backing_file").read_text().rstrip("\n")
    except OSError:
        return None


@contextlib.contextmanager
def mounted(image, kind, folder, *, again=False):
    """The filesystem in a file, mounted through a loop device; gone from the kernel afterwards."""
    folder.mkdir(exist_ok=True)
    device = run("losetup", "-f", "--show", image)
    try:
        options = ",".join(option for option in (kind.options, kind.again if again else "") if option)
        run("mount", "-t", kind.name, *(["-o", options] if options else []), device, folder)
        try:
            yield folder
        finally:
            run("umount", folder)
    finally:
        run("losetup", "-d", device)
        # A process that ended a moment ago had a mount namespace of its own, which the kernel takes down late.
        server.wait_until(lambda: backing(device) != str(image), f"{device} is free again")


class Disk:
    """`with Disk(folder, kind) as disk:` a filesystem at `disk.top`; everything it writes comes into the log."""

    def __init__(self, folder, kind):
        self.folder, self.kind = folder, kind
        self.base, self.image, self.log = folder / "base", folder / "image", folder / "log"
        self.top, self._served = folder / "top", folder / "served"
        self._marks = None

    def __enter__(self):
        lacking = [command for command in (self.kind.make[0], "losetup", "unshare") if shutil.which(command) is None]
        if lacking or not os.path.exists("/dev/fuse"):
            pytest.skip(f"needs {lacking[0] if lacking else '/dev/fuse'}")
        with contextlib.ExitStack() as stack:
            with open(self.base, "wb") as image:
                image.truncate(self.kind.megabytes << 20)
            run(*self.kind.make, self.base)
            copy(self.base, self.image)
            self._served.mkdir()
            self._serve(stack)
            self._marks = os.open(self._served / "mark", os.O_WRONLY)
            stack.callback(os.close, self._marks)
            stack.enter_context(mounted(self._served / "disk", self.kind, self.top))
            self._stack = stack.pop_all()
        return self

    def _serve(self, stack):
        process = subprocess.Popen([PROGRAM, self.image, self.log, self._served], stderr=subprocess.PIPE, text=True)

        def end():
            if process.poll() is None:
                subprocess.run(["umount", "-l", str(self._served)], check=False)
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise

        stack.callback(end)
        server.wait_until(lambda: (self._served / "disk").exists() or process.poll() is not None, "the disk is served")
        assert process.poll() is None, process.communicate()[1]

    def mark(self, *words):
        """Writes a line into the disk's own log, between its writes."""
        line = json.dumps(words).encode()
        assert os.write(self._marks, line) == len(line)

    def __exit__(self, *_):
        self._stack.close()


class Log:
    """What a disk was asked, in order."""

    def __init__(self, path):
        self.data = path.read_bytes()
        self.events = []
        at = 0
        while at + RECORD.size <= len(self.data):
            kind, length, offset = RECORD.unpack_from(self.data, at)
            at += RECORD.size
            self.events.append((kind, offset, at, length))
            at += length

    def marks(self):
        """(position, words) of every mark."""
        return [(position, json.loads(self.data[at:at + length])) for position, (kind, _, at, length) in enumerate(self.events) if kind == MARK]

    def writes(self, start, end):
        """(offset, bytes) of the writes at these positions."""
        return [(offset, self.data[at:at + length]) for kind, offset, at, length in self.events[start:end] if kind == WRITE]

    def flushed(self, position):
        """Where the last flush before this position stands; 0: there is none."""
        return next((at for at in range(position - 1, -1, -1) if self.events[at][0] == FLUSH), 0)


class Replay:
    """The disk at one moment after the other, never back: `cut` gives an image that may be mounted and changed."""

    def __init__(self, log, base, folder):
        self.log, self.whole, self.image = log, folder / "flushed", folder / "cut"
        self._until = 0
        copy(base, self.whole)

    def cut(self, position, kept, random):
        """The image after `position` events when of what was not flushed this was `kept`."""
        flushed = self.log.flushed(position)
        assert flushed >= self._until, "cuts come in the order of time"
        self._put(self.whole, self.log.writes(self._until, flushed))
        self._until = flushed
        copy(self.whole, self.image)
        self._put(self.image, survivors(self.log.writes(flushed, position), kept, random))
        return self.image

    @staticmethod
    def _put(image, writes):
        with open(image, "r+b") as file:
            for offset, data in writes:
                file.seek(offset)
                file.write(data)


def survivors(writes, kept, random):
    """What a disk keeps of writes that it was not told to flush."""
    if kept == "none":
        return []
    if kept == "all":
        return writes
    if kept == "first":
        return writes[:random.randrange(len(writes) + 1)]
    torn = []
    for offset, data in writes:
        if random.random() < 0.5:
            torn += [(offset + at, data[at:at + PAGE]) for at in range(0, len(data), PAGE) if random.random() < 0.8]
    return torn


def another_boot(folder, name):
    """Words to put before a command, that let it believe that the machine was started again."""
    other = folder / f"boot-{name}"
    other.write_text(f"{os.urandom(4).hex()}-0000-4000-8000-{os.urandom(6).hex()}\n")
    script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, other]
