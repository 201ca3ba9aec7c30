"""An ordinary user: what is run as him, and a daemon of his own that mounts through fusermount3.

A mount of his is his alone: not even root may look into it. So a test of it is run as him, too (`in_his_name`), while its
fixtures, which prepare what only root can, stay root's.
"""

import contextlib
import fcntl
import functools
import os
import pathlib
import signal
import stat
import subprocess
import sys
import traceback

from . import faces, s3

USER = 65534
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
DEVICE = pathlib.Path("/dev/fuse")
NUMBERS = os.makedev(10, 229)


def within_reach(folder):
    """Lets every user come to a folder of the test's; gives it back."""
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.geteuid() and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    return folder


def as_user(program, *words):
    """Runs a few lines as him; gives what they print."""
    done = subprocess.run([*AS_USER, sys.executable, "-c", "import errno, os, sys\n" + program, *map(str, words)],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextlib.contextmanager
def device():
    """The device node as every system with FUSE has it, for as long as somebody needs it: suites may run side by side."""
    if not DEVICE.exists():
        os.mknod(DEVICE, stat.S_IFCHR | 0o666, NUMBERS)
    with open(DEVICE, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        before = stat.S_IMODE(DEVICE.stat().st_mode)
        DEVICE.chmod(before | 0o666)
        try:
            yield
        finally:
            with contextlib.suppress(BlockingIOError):  # somebody else needs it still
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                DEVICE.chmod(before)


class Faces(faces.Faces):
    """A tree with both faces that is the user's, and so is its daemon: no passthrough, no other user's rights, no file handles."""

    def __init__(self, folder, *flags, wrapper=(), **options):
        super().__init__(within_reach(folder), *flags, wrapper=(*wrapper, *AS_USER), **options)
        self.daemon.state.mkdir(parents=True)
        for path in (folder, self.disk, *self.disk.iterdir(), self.mount, self.daemon.folder, self.daemon.state):
            os.chown(path, USER, USER)

    def __enter__(self):
        with contextlib.ExitStack() as needed:
            needed.enter_context(device())
            super().__enter__()
            s3.listed(self.client, faces.BUCKET)  # botocore reads some of itself at the first request; he may not come to where it lies
            self._needed = needed.pop_all()
        return self

    def __exit__(self, *outcome):
        with self._needed:
            super().__exit__(*outcome)


def in_his_name(function):
    """The same function, run to its end by a child that is him; what it raises is raised here, as words."""
    @functools.wraps(function)
    def run(**arguments):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            os._exit(become_him_and_run(function, arguments, writer))
        os.close(writer)
        try:
            with open(reader) as said:
                words = said.read()  # until the child has ended
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, f"as uid {USER}:\n{words}"
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            raise
    return run


def become_him_and_run(function, arguments, writer):
    """In the child, for good; gives its exit status."""
    try:
        os.setsid()
        os.chdir("/")
        os.environ["HOME"] = "/"
        os.umask(0o022)
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        function(**arguments)
    except BaseException:
        os.write(writer, traceback.format_exc().encode()[-60_000:])
        return 1
    return 0
