"""The daemon under test, as a process: started on free ports, awaited, stopped, restarted.

TWINTREE_SUITES_MOUNT=plain or =passthrough: each daemon mounts its buckets as well, in a folder of its own, whatever
its suite is about; what it answers by S3 must be the same.
"""

import os
import pathlib
import selectors
import signal
import subprocess
import threading
import time

from . import mountpoint

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TWINTREE_BIN") or str(ROOT / "target" / "debug" / "twintree")
ACCESS_KEY = "TESTKEY0000000000001"
SECRET_KEY = "test/secret+key/with+all/the+awkward=characters"
START_SECONDS = 20
STOP_SECONDS = 20
BESIDE = os.environ.get("TWINTREE_SUITES_MOUNT")
"""How each daemon mounts its buckets; None: only where its suite asks for it."""


class Daemon:
    """One `twintree serve`. `url` is its first listener's address, `urls` are all of them."""

    def __init__(self, root, folder, *flags, listen=("127.0.0.1:0",), environment=None, keys=True, wrapper=(), beside=True, pass_fds=(), count=None):
        self.root = pathlib.Path(root)
        self.folder = pathlib.Path(folder)
        self.state = self.folder / "state"
        self.log = self.folder / "stderr"
        self.output = []
        self.urls = []
        self.admin = None
        """Where its admin listener is, if it has one."""
        self.process = None
        self.binary = BINARY
        self._listen = list(listen)
        self._flags = [str(flag) for flag in flags]
        self.beside = self.folder / "mount" if BESIDE and beside and "--mount" not in self._flags else None
        """Where it mounts its buckets beside a suite that is about something else; `beside=False`: it may not."""
        self._wrapper = [str(word) for word in wrapper]
        self._pass_fds = list(pass_fds)
        self._count = max(1, len(self._listen)) if count is None else count
        """How many listeners it must speak of before it counts as started."""
        self._environment = dict(environment or {})
        if keys:
            self._environment.setdefault("TWINTREE_ACCESS_KEY", ACCESS_KEY)
            self._environment.setdefault("TWINTREE_SECRET_KEY", SECRET_KEY)

    @property
    def url(self):
        return self.urls[0]

    @property
    def port(self):
        return int(self.url.rsplit(":", 1)[1])

    @property
    def pid(self):
        return self.process.pid

    def command(self):
        """The command line."""
        words = [*self._wrapper, self.binary, "serve", str(self.root)]
        for address in self._listen:
            words += ["--listen", address]
        if "--state-dir" not in self._flags:
            words += ["--state-dir", str(self.state)]
        if self.beside:
            words += ["--mount", str(self.beside), "--mount-mode", BESIDE]
        return words + self._flags

    def start(self):
        """Starts it and waits until every listener has said that it listens."""
        self.folder.mkdir(exist_ok=True)
        self.state.mkdir(exist_ok=True)
        if self.beside and not mountpoint.is_mounted(self.beside):
            self.beside.mkdir(exist_ok=True)
        variables = {name: value for name, value in os.environ.items() if not name.startswith("TWINTREE_")}
        variables.setdefault("RUST_LOG", "info")
        variables.update(self._environment)
        self.output, self.urls = [], []
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=log, env=variables, cwd=self.folder,
                                            pass_fds=self._pass_fds)
        self._await_listeners(self._count)
        threading.Thread(target=self._drain, daemon=True).start()
        return self

    def _await_listeners(self, count):
        deadline = time.monotonic() + START_SECONDS
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while len(self.urls) < count:
                if not selector.select(max(0, deadline - time.monotonic())):
                    self.kill()
                    raise AssertionError(f"not ready within {START_SECONDS} s: {self.words()}")
                piece = os.read(self.process.stdout.fileno(), 65536)
                if not piece:
                    self.process.wait()
                    raise AssertionError(f"ended with {self.process.returncode} before it listened: {self.words()}")
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self._take(line.decode())

    def _take(self, line):
        self.output.append(line)
        if line.startswith("listening on "):
            self.urls.append(line.removeprefix("listening on ").strip())
        elif line.startswith("admin on "):
            self.admin = line.removeprefix("admin on ").strip()

    def _drain(self):
        """Keeps the pipe empty, so that the daemon never waits for its reader."""
        for line in self.process.stdout:
            self.output.append(line.decode(errors="replace").rstrip("\n"))

    def words(self):
        """All that it has said, for a failure's message."""
        log = self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""
        return "\n".join(self.output) + "\n" + log

    def stop(self):
        """SIGTERM, then waits; a daemon that does not end is killed and is a failure."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end within {STOP_SECONDS} s of SIGTERM: {self.words()}") from None
        assert code == 0, f"SIGTERM ended it with {code}: {self.words()}"
        assert not self.beside or not mountpoint.is_mounted(self.beside), f"SIGTERM left the mount behind: {self.words()}"

    def kill(self):
        """SIGKILL, and waits."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait()
        if self.beside:
            mountpoint.unmount(self.beside)

    def restart(self):
        """Stops it and starts it again on the same tree; the port changes."""
        self.stop()
        return self.start()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


def wait_until(claim, what, seconds=20):
    """Asks `claim` until it answers something true; fails with `what` when the time is over."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        answer = claim()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        pause.wait(0.02)
