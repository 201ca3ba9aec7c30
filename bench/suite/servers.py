"""The servers side by side: each a process of ours, awaited, measured with all its threads and children, ended by its pid."""

import getpass
import os
import pathlib
import signal
import socket
import subprocess
import time

from lib import server, wire

BENCH = pathlib.Path(__file__).resolve().parent.parent

START_SECONDS = 20
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """CPU time of a process, its ended threads, its living descendants, and its children that have ended.

    The clock of a process (clock_getcpuclockid) counts nanoseconds; /proc/PID/stat, which alone knows ended
    children, counts ticks.
    """
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(entry)):
            parents.setdefault(int(fields[1]), []).append(int(entry))
    total, waiting = 0.0, [pid]
    while waiting:
        one = waiting.pop()
        waiting += parents.get(one, [])
        if fields := _stat(one):
            total += time.clock_gettime((~one << 3) | 2)
            total += (int(fields[13]) + int(fields[14])) / TICKS
    return total


def _stat(pid):
    """The fields of /proc/PID/stat after the name: state, ppid, ..."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def pss(pid):
    """Memory of a process, in MiB: its own pages, and its share of those that others have too; but its program's whole,
    as if it were the only one of its kind that runs."""
    program, total, whole = os.readlink(f"/proc/{pid}/exe"), 0, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            whole = words[-1] == program
        elif words[0] == ("Rss:" if whole else "Pss:"):
            total += int(words[1])
    return total / 1024


def received(pid):
    """Bytes that a process has got from read calls of every kind, sockets included."""
    return int(pathlib.Path(f"/proc/{pid}/io").read_text().split()[1])


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server that listens on `port` and serves `root`."""

    label = ""
    ok = 200
    """The status of a PUT that made a file."""

    def __init__(self, root):
        self.root = root
        self.port = 0
        self.pid = 0

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def cpu(self):
        """Its CPU time so far, in seconds."""
        return cpu_seconds(self.pid)

    def head(self, method, target, headers=(), *, payload=wire.UNSIGNED, signer=None):
        """A request's head, signed now."""
        signed = (signer or wire.Signer()).headers(method, target, self.address, headers, payload)
        return _head(method, target, signed)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()


def _head(method, target, headers):
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


class Twintree(Server):
    """`twintree serve`, as tests start it, with the log of a quiet server."""

    def __init__(self, root, folder, durability, *flags, log="warn", **options):
        super().__init__(root)
        self.label = f"twintree {durability}"
        self.daemon = server.Daemon(root, folder, "--log", log, "--durability", durability, *flags, **options)

    def start(self):
        self.daemon.start()
        self.port, self.pid = self.daemon.port, self.daemon.pid

    @property
    def log(self):
        """The log so far."""
        return self.daemon.words()

    def stop(self):
        self.daemon.stop()


class Peer(Server):
    """A server of somebody else's."""

    def __init__(self, root, folder):
        super().__init__(root)
        self.folder = folder
        self.process = None

    def command(self):
        raise NotImplementedError

    def start(self):
        self.folder.mkdir(exist_ok=True)
        self.port = free_port()
        with open(self.folder / "output", "ab") as output:
            self.process = subprocess.Popen(self.command(), stdout=output, stderr=output, cwd=self.folder)
        self.pid = self.process.pid
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.stop()
                words = (self.folder / "output").read_text(errors="replace")[-2000:]
                raise SystemExit(f"{self.label} does not start: {words}")
            time.sleep(0.02)

    def is_ready(self):
        """Whether it listens."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def arguments(self, name, **words):
        """The arguments in a file of bench/peers, one a line."""
        return [line for line in self.config(name, **words).splitlines() if line and not line.startswith("#")]

    def config(self, name, **words):
        """A file of bench/peers with its words replaced."""
        text = (BENCH / "peers" / name).read_text()
        words |= {"PORT": self.port, "ROOT": self.root, "DIR": self.folder}
        for word, value in words.items():
            text = text.replace(f"@{word}@", str(value))
        return text


class Versitygw(Peer):
    """versitygw with its posix backend, on a tree of its own."""

    label = "versitygw"

    def __init__(self, root, folder, binary):
        super().__init__(root, folder)
        self.binary = binary

    def command(self):
        return [self.binary, *self.arguments("versitygw.args", ACCESS=server.ACCESS_KEY, SECRET=server.SECRET_KEY)]


class RcloneServe(Peer):
    """`rclone serve s3`, on a tree of its own."""

    label = "rclone"

    def __init__(self, root, folder, binary):
        super().__init__(root, folder)
        self.binary = binary

    def command(self):
        return [self.binary, *self.arguments("rclone-serve.args", ACCESS=server.ACCESS_KEY, SECRET=server.SECRET_KEY)]


class Nginx(Peer):
    """nginx on twintree's own files; asked without signatures, which it does not know. `secured`: certificate and key."""

    label = "nginx"
    ok = 201

    def __init__(self, root, folder, tree, binary, secured=None):
        super().__init__(root, folder)
        self.tree = tree
        self.binary = binary
        self.secured = secured

    def command(self):
        self.tree.joinpath("dav").mkdir(parents=True, exist_ok=True)
        config = self.folder / "nginx.conf"
        with_tls = f" ssl; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {self.secured[0]}; ssl_certificate_key {self.secured[1]}" if self.secured else ""
        config.write_text(self.config("nginx.conf", TREE=self.tree, USER=getpass.getuser(), WORKERS=os.cpu_count(), SECURED=with_tls))
        return [self.binary, "-e", str(self.folder / "error.log"), "-p", str(self.folder), "-c", str(config)]

    def head(self, method, target, headers=(), *, payload=None, signer=None):
        return _head(method, target, {"host": self.address, **dict(headers)})
