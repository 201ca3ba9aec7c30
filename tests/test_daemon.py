"""The daemon under a service manager: readiness, watchdog, sockets that somebody else holds, credentials; and without one."""

import http.client
import os
import pathlib
import queue
import signal
import socket
import subprocess
import threading

import pytest
from lib import admin, manager, s3, server

KEYS = "access-of-the-manager\nsecret-of-the-manager\n"


@pytest.fixture
def under(tmp_path, daemon, tree):
    """Starts a daemon under a manager that holds these sockets: `under(sockets, flags, watchdog=)`."""
    made = []

    def start(*sockets, flags=(), watchdog=None, listen=(), environment=None, root=tree, **options):
        one = manager.Manager(tmp_path, *sockets, watchdog=watchdog)
        made.append(one)
        count = options.pop("count", len(sockets) or max(1, len(listen)))
        started = daemon(root, *flags, listen=listen, count=count, environment=one.environment | (environment or {}),
                         wrapper=one.wrapper, pass_fds=one.pass_fds, **options)
        return one, started

    yield start
    for one in made:
        one.close()


def tcp(family=socket.AF_INET, host="127.0.0.1"):
    """A listening socket, as a manager makes it."""
    return socket.create_server((host, 0), family=family, backlog=1024)


def unix(path):
    """A listening socket in the file system, or with a name of no file."""
    one = socket.socket(socket.AF_UNIX)
    one.bind(str(path))
    one.listen(64)
    return one


def status_by_unix(path):
    """The status of an answer to a request without a key, over a Unix socket."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(20)
        one.connect(str(path))
        one.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return int(one.makefile("rb").readline().split()[1])


# Telling.

def test_ready_is_said_once_it_serves_and_stopping_before_it_ends(under, tree):
    boss, one = under(listen=("127.0.0.1:0",))
    ready = boss.next()
    assert ready["READY"] == "1"
    assert ready["STATUS"] == f"serving {tree} on {one.url}"
    assert s3.client(one.url).list_buckets()["Buckets"] == []
    one.stop()
    stopping = boss.until("STOPPING")
    assert stopping["STOPPING"] == "1"
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 30e6, "the drain may take its time"
    assert not any("WATCHDOG" in message for message in boss.waiting()), "nobody asked for pings"


def test_a_daemon_that_cannot_start_never_says_that_it_is_ready(tmp_path):
    boss = manager.Manager(tmp_path)
    done = subprocess.run([server.BINARY, "serve", str(tmp_path / "missing"), "--state-dir", str(tmp_path / "state")],
                          env={"PATH": os.environ["PATH"]} | boss.environment, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and "missing" in done.stderr
    assert boss.waiting() == []
    boss.close()


def test_an_abstract_socket_is_told_as_well(daemon, tree):
    name = f"twintree-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("\0" + name)
        heard.settimeout(20)
        daemon(tree, environment={"NOTIFY_SOCKET": "@" + name})
        assert b"READY=1" in heard.recv(4096)


def test_without_a_manager_nothing_is_told_and_nothing_is_missing(daemon, tree):
    one = daemon(tree, environment={"WATCHDOG_USEC": "100000", "LISTEN_FDS": "1", "LISTEN_PID": "1"})
    assert s3.client(one.url).list_buckets()["Buckets"] == []
    assert "service manager" not in one.words()


def test_a_manager_that_does_not_listen_does_not_stop_the_daemon(daemon, tree, tmp_path):
    one = daemon(tree, environment={"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "100000"})
    assert s3.client(one.url).list_buckets()["Buckets"] == []
    assert "cannot be told" in one.words()


def test_a_root_that_vanished_shows_in_the_status_and_the_pings_go_on(under, tree, tmp_path):
    boss, one = under(listen=("127.0.0.1:0",), watchdog=0.3)
    assert boss.until("READY")
    tree.rename(tmp_path / "elsewhere")
    assert str(tree) in boss.until("STATUS")["STATUS"]
    assert boss.until("WATCHDOG"), "a restart would not bring the disk back"
    (tmp_path / "elsewhere").rename(tree)
    assert boss.until("STATUS")["STATUS"].startswith("serving ")


# The watchdog.

def test_pings_go_on_while_it_answers(under):
    boss, _ = under(listen=("127.0.0.1:0",), watchdog=0.3)
    assert boss.until("READY")
    for _ in range(5):
        assert boss.until("WATCHDOG") == {"WATCHDOG": "1"}


def test_no_ping_while_every_worker_of_the_runtime_hangs(under, tree):
    """What the kernel should answer at once takes two seconds: both workers hang in it, and nobody is answered."""
    (tree / "photos").mkdir()
    (tree / "photos" / "a").write_bytes(b"hello")
    boss, one = under(listen=("127.0.0.1:0",), watchdog=0.3, environment={"TOKIO_WORKER_THREADS": "1"})
    client = s3.client(one.url)
    assert s3.body(client, "photos", "a") == b"hello"
    assert boss.until("WATCHDOG")
    tasks = pathlib.Path(f"/proc/{one.pid}/task")
    worker = next(task.name for task in tasks.iterdir() if "tokio" in (task / "comm").read_text())
    strace = ["strace", "-q", "-p", worker, "-e", "trace=openat2,statx,fstat,newfstatat", "-e", "inject=openat2,statx,fstat,newfstatat:delay_enter=2000000"]
    with subprocess.Popen(strace, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as tracer:
        server.wait_until(lambda: "TracerPid:\t0" not in (tasks / worker / "status").read_text(), "strace is there")
        hung = threading.Thread(target=s3.body, args=(client, "photos", "a"))
        hung.start()
        call = tasks / worker / "syscall"
        server.wait_until(lambda: call.read_text().split()[0] in ("437", "332", "5", "262"), "the worker hangs")
        boss.waiting()
        hung.join(30)
        # One may have been on its way while it began to hang.
        assert sum("WATCHDOG" in message for message in boss.waiting()) <= 1
        tracer.send_signal(signal.SIGTERM)
        tracer.wait(20)
    assert boss.until("WATCHDOG"), "it answers again"


# Sockets that a manager holds.

def test_held_sockets_take_the_place_of_listen(under, tmp_path):
    held = [tcp(), unix(tmp_path / "held.sock"), tcp(), unix("\0twintree-held-%d" % os.getpid())]
    unwanted = tmp_path / "own.sock"
    boss, one = under(*held, listen=(f"unix:{unwanted}",))
    ports = [held[0].getsockname()[1], held[2].getsockname()[1]]
    assert one.urls == [f"http://127.0.0.1:{ports[0]}", f"unix:{tmp_path}/held.sock", f"http://127.0.0.1:{ports[1]}",
                        f"unix:@twintree-held-{os.getpid()}"]
    for port in ports:
        assert s3.client(f"http://127.0.0.1:{port}").list_buckets()["Buckets"] == []
    assert status_by_unix(tmp_path / "held.sock") == 403
    assert not unwanted.exists()
    one.stop()
    assert (tmp_path / "held.sock").exists(), "the socket file is its manager's"


@pytest.mark.parametrize("flags", [(), ("--admin", "127.0.0.1:1")], ids=["alone", "over-the-flag"])
def test_a_held_socket_that_is_called_admin_is_the_admin_listeners(under, flags):
    s3_face, pages = tcp(), tcp()
    _, one = under(s3_face, pages, flags=flags, environment={"LISTEN_FDNAMES": "s3:admin"}, count=1)
    assert one.urls == [f"http://127.0.0.1:{s3_face.getsockname()[1]}"]
    assert one.admin == f"http://127.0.0.1:{pages.getsockname()[1]}"
    assert admin.page(one, "/health/ready").text == "ready\n"
    assert s3.client(one.url).list_buckets()["Buckets"] == []


def test_a_held_admin_socket_alone_leaves_listen_as_it_is(under):
    pages = tcp()
    _, one = under(pages, listen=("127.0.0.1:0",), environment={"LISTEN_FDNAMES": "admin"})
    assert one.port != pages.getsockname()[1] and s3.client(one.url).list_buckets()["Buckets"] == []
    assert admin.page(one, "/health/live").text == "alive\n"


def test_held_tcp_sockets_speak_tls_where_a_certificate_is_given(under, authority, tmp_path):
    held = tcp(), unix(tmp_path / "held.sock")
    _, one = under(*held, flags=("--tls-cert", authority.certificate, "--tls-key", authority.key))
    assert one.url.startswith("https://")
    assert s3.client(one.url, verify=authority.ca).list_buckets()["Buckets"] == []
    assert status_by_unix(tmp_path / "held.sock") == 403


@pytest.mark.parametrize("kind, words", [("datagram", "no stream socket"), ("idle", "does not listen"), ("file", "is no socket")])
def test_what_cannot_be_served_is_refused_with_its_reason(tmp_path, tree, kind, words):
    one = {"datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "idle": lambda: socket.socket(socket.AF_INET),
           "file": lambda: open(tmp_path / "file", "w")}[kind]()
    with one:
        boss = manager.Manager(tmp_path, one)
        command = [*boss.wrapper, server.BINARY, "serve", str(tree), "--state-dir", str(tmp_path / "state")]
        done = subprocess.run(command, pass_fds=boss.pass_fds, env={"PATH": os.environ["PATH"]} | boss.environment,
                              capture_output=True, text=True, timeout=20)
        boss.heard.close()
    assert done.returncode != 0 and words in done.stderr, done.stderr


def test_no_helper_inherits_a_held_socket(under, tmp_path):
    _, one = under(tcp())
    flags = pathlib.Path(f"/proc/{one.pid}/fdinfo/3").read_text().split("flags:")[1].split()[0]
    assert int(flags, 8) & os.O_CLOEXEC


# A restart that nobody notices.

class Load:
    """Clients that ask again and again, each request on a connection of its own or all on one; what failed is kept."""

    def __init__(self, port, count):
        self.port, self.failed, self.answered = port, queue.SimpleQueue(), [0] * count
        self.leave = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(place,), daemon=True) for place in range(count)]
        for thread in self.threads:
            thread.start()

    def ask(self, place):
        while not self.leave.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 403
                self.answered[place] += 1
            except Exception as error:  # noqa: BLE001  (whatever it is, it is a failed request)
                self.failed.put(repr(error))
            finally:
                connection.close()

    def each_answered(self, more):
        """Waits until every client got so many answers more."""
        aims = [count + more for count in self.answered]
        server.wait_until(lambda: all(count >= aim for count, aim in zip(self.answered, aims)), "answers for all")

    def end(self):
        """Ends them, and gives what failed."""
        self.leave.set()
        for thread in self.threads:
            thread.join(40)
        return [self.failed.get() for _ in range(self.failed.qsize())]


def test_a_restart_with_held_sockets_refuses_no_connection_and_fails_no_request(under, tree):
    (tree / "photos").mkdir()
    held = tcp()
    boss, one = under(held)
    client = s3.client(one.url)
    load = Load(held.getsockname()[1], 8)
    for turn in range(5):
        load.each_answered(5)
        client.put_object(Bucket="photos", Key=f"turn-{turn}", Body=b"kept")
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(30) == 0, one.words()
        # Nobody serves now: what comes waits.
        waiting = socket.create_connection(held.getsockname(), timeout=30)
        waiting.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        one.start()
        assert waiting.makefile("rb").readline().startswith(b"HTTP/1.1 403")
        waiting.close()
    load.each_answered(5)
    assert load.end() == []
    assert sorted(s3.listed(client, "photos")) == [f"turn-{turn}" for turn in range(5)]


# Credentials.

def test_keys_come_from_the_managers_credential(daemon, tree, tmp_path):
    (tmp_path / "twintree.credentials").write_text(KEYS)
    one = daemon(tree, keys=False, environment={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    access, secret = KEYS.split()
    assert s3.client(one.url, access_key=access, secret_key=secret).list_buckets()["Buckets"] == []
    assert not any("secret" in line for line in one.output), "no key was made, none is shown"
    assert secret not in one.words()
    assert not (one.state / "credentials").exists()


def test_a_directory_of_other_credentials_changes_nothing(daemon, tree, tmp_path):
    one = daemon(tree, keys=False, environment={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    server.wait_until(lambda: (one.state / "credentials").exists(), "a key of its own")
