"""What an operator relies on: health and metrics on the admin listener, and that they are true."""

import collections
import concurrent.futures
import hashlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import urllib.parse

import pytest
from lib import admin, s3, server, wire

DOCUMENT = pathlib.Path(__file__).resolve().parent.parent / "docs" / "operations.md"
INLINE = 64 << 10
"""The largest body that goes the express way."""


@pytest.fixture
def watched(daemon, tree):
    """A daemon with an admin listener, on a tree with one bucket."""
    (tree / "bucket-one").mkdir()
    return daemon(tree, "--admin", "127.0.0.1:0", beside=False)


def listening(pid):
    """The TCP addresses that a process listens on, as the kernel says it."""
    own = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            own.add(os.readlink(f"/proc/{pid}/fd/{entry}"))
        except FileNotFoundError:  # closed meanwhile
            pass
    found = set()
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in own:
                address, port = words[1].split(":")
                found.add((address, int(port, 16)))
    return found


# The listener itself.

def test_it_is_off_unless_asked_for(served):
    assert served.admin is None
    assert len(listening(served.pid)) == 1
    for path in ("/metrics", "/health/live", "/health/ready"):
        with wire.Connection(served) as connection:
            connection.send("GET", path, {"host": connection.host})
            assert connection.answer().code == "AccessDenied"


def test_a_port_alone_is_on_this_machine_alone(daemon, tree):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one = daemon(tree, "--admin", f":{port}")
    assert one.admin == f"http://127.0.0.1:{port}"
    assert ("0100007F", port) in listening(one.pid)
    assert "asks for no key" not in one.log.read_text()


def test_an_open_one_is_warned_of_and_a_socket_is_taken(daemon, tree, tmp_path):
    one = daemon(tree, environment={"TWINTREE_ADMIN": "0.0.0.0:0"})
    assert "asks for no key and is open to other machines" in one.log.read_text()
    config = tmp_path / "twintree.toml"
    config.write_text(f'admin = "unix:{tmp_path}/admin"\n')
    two = daemon(tree, "--config", config)
    assert two.admin == f"unix:{tmp_path}/admin"
    assert admin.page(two, "/health/live").text == "alive\n"
    assert admin.Metrics(two)("twintree_build_info", version="0.1.0") == 1


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/", 404), ("GET", "/bucket-one", 404), ("GET", "/bucket-one/object", 404), ("PUT", "/bucket-one/object", 404),
    ("GET", "/metrics/", 404), ("GET", "//metrics", 404), ("GET", "/health", 404), ("GET", "/.twintree/", 404), ("GET", "/%6detrics", 404),
    ("GET", "/health/../metrics", 404), ("DELETE", "/metrics", 405), ("POST", "/metrics", 405), ("PUT", "/health/ready", 405),
    ("OPTIONS", "/health/live", 405), ("TRACE", "/metrics", 405), ("PROPFIND", "/metrics", 405),
])
def test_everything_else_is_refused(watched, tree, method, path, status):
    """Signed or not: nothing of S3 is there, and nothing is changed."""
    target = urllib.parse.urlsplit(watched.admin).netloc
    signed = wire.Signer().headers(method, path, target, {}, hashlib.sha256(b"body").hexdigest())
    for headers in ({}, {name: value for name, value in signed.items() if name != "host"}):
        answer = admin.page(watched, path, method, body="body" if method in ("PUT", "POST") else None, headers=headers)
        assert answer.status == status, answer.text
        assert "ListBucketResult" not in answer.text
    assert list((tree / "bucket-one").iterdir()) == []
    assert admin.Metrics(watched).by("twintree_requests_total", "operation") == {}, "its own requests do not count"


def test_head_is_answered_and_pages_are_not_kept(watched):
    for path in ("/health/live", "/health/ready", "/metrics"):
        answer = admin.page(watched, path, "HEAD")
        assert (answer.status, answer.text, answer.headers["cache-control"]) == (200, "", "no-store")
    assert admin.page(watched, "/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")


def raw(daemon):
    """A connection to the admin listener."""
    address = urllib.parse.urlsplit(daemon.admin)
    return socket.create_connection((address.hostname, address.port), timeout=30)


@pytest.mark.parametrize("head", [
    b"GET /metrics HTTP/1.1\r\nhost: x\r\nx: " + b"a" * (1 << 20) + b"\r\n\r\n",
    b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * 200 + b"\r\n",
    b"GET /metrics HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
], ids=["a-long-field", "a-long-target", "many-fields", "two-hosts", "no-host", "two-framings", "tls"])
def test_hostile_heads_are_refused_and_bounded(watched, head):
    before = admin.Metrics(watched)("process_resident_memory_bytes")
    with raw(watched) as connection:
        try:
            connection.sendall(head)
        except OSError:
            pass  # it has closed already
        received = b""
        try:
            while not received.startswith(b"HTTP/1.1 4") and (piece := connection.recv(65536)):
                received += piece
        except ConnectionResetError:
            pass
    assert received.startswith(b"HTTP/1.1 4") or received == b"", received[:200]
    after = admin.Metrics(watched)("process_resident_memory_bytes")
    assert after - before < 8 << 20


def test_a_head_that_never_ends_is_waited_for_seconds_and_others_are_answered_meanwhile(watched):
    with raw(watched) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\nx")
        assert admin.page(watched, "/health/ready").status == 200
        slow.settimeout(20)
        assert slow.recv(65536) == b""


def test_connections_are_so_many_at_most_and_keep_nothing_from_s3(watched):
    crowd = [raw(watched) for _ in range(64)]
    for one in crowd:
        one.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert one.recv(65536).startswith(b"HTTP/1.1 200")
    with raw(watched) as late:
        late.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        late.setblocking(False)
        assert s3.client(watched.url).list_buckets()["Buckets"], "S3 is not kept waiting"
        with pytest.raises(BlockingIOError):
            late.recv(1)
        crowd.pop().close()
        late.settimeout(30)
        assert late.recv(65536).startswith(b"HTTP/1.1 200")
    for one in crowd:
        one.close()


# What it says.

def test_every_metric_is_documented_and_every_documented_one_is_there(daemon, tree, tmp_path):
    (tree / "bucket-one").mkdir()
    (tmp_path / "mount").mkdir()
    one = daemon(tree, "--admin", "127.0.0.1:0", "--mount", tmp_path / "mount")
    s3.client(one.url).put_object(Bucket="bucket-one", Key="a", Body=b"a")
    assert (tmp_path / "mount" / "bucket-one" / "a").read_bytes() == b"a"
    metrics = admin.settled(one)
    kinds = {}
    for family in metrics.families:
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family
        kinds[family.name + ("_total" if family.type == "counter" else "")] = family.type
    rows = re.findall(r"^\| `([a-z_]+)`[^|]* \| (counter|gauge|histogram) \|", DOCUMENT.read_text(), re.M)
    assert dict(rows) == kinds
    assert len(rows) == len(dict(rows))


def test_nothing_secret_is_on_it(watched):
    client = s3.client(watched.url)
    client.put_object(Bucket="bucket-one", Key="hush", Body=b"a")
    pages = "".join(admin.page(watched, path).text for path in ("/metrics", "/health/live", "/health/ready"))
    for word in (server.ACCESS_KEY, server.SECRET_KEY, "hush", "bucket-one"):
        assert word not in pages


class Load:
    """Requests of every kind, and what the client counted of them."""

    def __init__(self, daemon, random):
        self.daemon = daemon
        self.counts = collections.Counter()
        self.sent = 0
        self.received = collections.Counter()
        self.small, self.large = random.bytes(4096), random.bytes(INLINE + 1)

    def ask(self, connection, operation, method, target, body=b"", **named):
        """One request; counts what came back."""
        answer = connection.ask(method, target, body, **named)
        self.counts[operation, str(answer.status)] += 1
        self.received[operation] += len(answer.body)
        self.sent += len(body)
        return answer

    def work(self, number):
        """What one client does: both ways, every class of status. Gives what it counted."""
        own = Load.__new__(Load)
        own.daemon, own.counts, own.sent, own.received = self.daemon, collections.Counter(), 0, collections.Counter()
        name = f"/bucket-one/{number}"
        with wire.Connection(self.daemon) as connection:
            own.ask(connection, "PutObject", "PUT", name, self.small)
            own.ask(connection, "PutObject", "PUT", f"{name}-large", self.large)
            tag = own.ask(connection, "HeadObject", "HEAD", name).headers["etag"]
            own.ask(connection, "GetObject", "GET", name, headers={"if-none-match": tag})
            own.ask(connection, "GetObject", "GET", name, headers={"range": "bytes=1-100"})
            own.ask(connection, "GetObject", "GET", name, headers={"range": "bytes=9999-"})
            own.ask(connection, "GetObject", "GET", name, headers={"if-match": '"other"'})
            own.ask(connection, "GetObject", "GET", f"{name}-none")
            own.ask(connection, "GetObject", "GET", f"{name}-large")
            own.ask(connection, "ListObjectsV2", "GET", f"/bucket-one?list-type=2&prefix={number}-")
            own.ask(connection, "GetObjectTorrent", "GET", f"{name}?torrent")
            own.ask(connection, "none", "PATCH", name)
            own.ask(connection, "GetObject", "GET", name, signer=wire.Signer(secret_key="not the key"))
            own.ask(connection, "DeleteObject", "DELETE", f"{name}-large")
        with wire.Connection(self.daemon) as connection:
            for _ in range(20):
                own.ask(connection, "GetObject", "GET", name, payload=wire.UNSIGNED)
                own.ask(connection, "HeadObject", "HEAD", name, payload=wire.UNSIGNED)
        return own

    def take(self, other):
        """Adds what another counted."""
        self.counts += other.counts
        self.received += other.received
        self.sent += other.sent


def statuses(metrics):
    """Requests by operation and status, as the daemon counted them."""
    return metrics.by("twintree_requests_total", "operation", "status")


def test_after_a_load_the_counters_equal_what_the_clients_counted(watched, random):
    load = Load(watched, random)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for own in pool.map(load.work, range(24)):
            load.take(own)
    metrics = admin.settled(watched)
    assert statuses(metrics) == load.counts
    assert set(status for _, status in load.counts) >= {"200", "204", "206", "304", "403", "404", "405", "412", "416", "501"}
    assert metrics.by("twintree_response_body_bytes_total", "operation") == +load.received
    assert metrics("twintree_request_body_bytes_total") == load.sent
    assert metrics.by("twintree_responses_cut_total", "operation") == {}
    by_operation = collections.Counter()
    for (operation, _), count in load.counts.items():
        by_operation[operation] += count
    assert metrics.by("twintree_request_duration_seconds_count", "operation") == by_operation
    assert all(seconds < 24 * 60 for seconds in metrics.by("twintree_request_duration_seconds_sum", "operation").values())
    assert metrics("twintree_connections_total") == 48
    server.wait_until(lambda: admin.Metrics(watched)("twintree_connections_open") == 0, "every connection has ended")
    # Each PUT syncs a file and a directory: either alone, or as one of those that a call served.
    calls = ("fsync_file", "fsync_directory", "syncfs")
    assert sum(metrics("twintree_commit_batch_size_sum", call=call) for call in calls) >= 2 * 48
    assert sum(metrics("twintree_commit_batch_size_count", call=call) for call in calls) <= \
        sum(metrics("twintree_commit_batch_size_sum", call=call) for call in calls)


@pytest.mark.parametrize("way", ["on", "off"])
def test_plain_reads_count_alike_on_both_ways(daemon, tree, random, way):
    (tree / "bucket-one").mkdir()
    body = random.bytes(4096)
    (tree / "bucket-one" / "a").write_bytes(body)
    one = daemon(tree, "--admin", "127.0.0.1:0", environment={"TWINTREE_EXPRESS": way})
    with wire.Connection(one) as connection:
        for _ in range(100):
            assert connection.ask("GET", "/bucket-one/a", payload=wire.UNSIGNED).body == body
            assert connection.ask("HEAD", "/bucket-one/a", payload=wire.UNSIGNED).status == 200
    metrics = admin.settled(one)
    assert statuses(metrics) == {("GetObject", "200"): 100, ("HeadObject", "200"): 100}
    assert metrics.by("twintree_response_body_bytes_total", "operation") == {"GetObject": 100 * len(body)}
    assert metrics.by("twintree_responses_cut_total", "operation") == {}


def leave_in_the_middle(daemon, target):
    """Asks for an object and resets the connection after the first bytes of it."""
    with wire.Connection(daemon) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.send("GET", target, wire.Signer().headers("GET", target, connection.host))
        assert connection.file.read(20).startswith(b"HTTP/1.1 200")
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def test_clients_that_leave_in_the_middle_are_counted(watched, random):
    client = s3.client(watched.url)
    client.put_object(Bucket="bucket-one", Key="large", Body=random.bytes(64 << 20))
    for _ in range(5):
        leave_in_the_middle(watched, "/bucket-one/large")
    metrics = admin.settled(watched)
    assert statuses(metrics) == {("PutObject", "200"): 1, ("GetObject", "200"): 5}
    assert metrics.by("twintree_responses_cut_total", "operation") == {"GetObject": 5}
    assert metrics.by("twintree_response_body_bytes_total", "operation")["GetObject"] < 5 * (64 << 20)


def test_uploads_that_break_off_are_counted_with_what_they_brought(watched):
    for _ in range(5):
        with wire.Connection(watched) as connection:
            every = wire.Signer().headers("PUT", "/bucket-one/object", connection.host, {}, wire.UNSIGNED)
            connection.send("PUT", "/bucket-one/object", every | {"content-length": 1 << 20}, b"x" * 1000)
            server.wait_until(lambda: admin.Metrics(watched)("twintree_requests_in_flight") == 1, "it has begun")
    metrics = admin.settled(watched)
    counted = statuses(metrics)
    assert sum(counted.values()) == 5 and set(counted) <= {("PutObject", "400"), ("PutObject", "499"), ("none", "499")}, counted
    assert metrics("twintree_request_body_bytes_total") == 5 * 1000


def test_requests_over_tls_and_failed_handshakes_are_counted(daemon, tree, authority):
    (tree / "bucket-one").mkdir()
    one = daemon(tree, "--tls-cert", authority.certificate, "--tls-key", authority.key, "--admin", "127.0.0.1:0")
    client = s3.client(one.url, verify=authority.ca)
    client.put_object(Bucket="bucket-one", Key="a", Body=b"a")
    for _ in range(3):
        with wire.Connection(one) as connection:
            connection.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert connection.socket.recv(100)[:1] in (b"", b"\x15"), "an alert, or the end"
    if shutil.which("curl"):
        subprocess.run(["curl", "-sS", "--http2", "--cacert", authority.ca, one.url + "/"], check=True, capture_output=True)
    metrics = server.wait_until(lambda: (now := admin.settled(one))("twintree_tls_handshake_failures_total") == 3 and now, "all have failed")
    expected = {("PutObject", "200"): 1, ("ListBuckets", "403"): 1}
    assert statuses(metrics) == {key: count for key, count in expected.items() if key[0] != "ListBuckets" or shutil.which("curl")}


def test_sealing_and_the_watcher_are_seen_at_work(daemon, tree, random):
    for name in ("one", "two"):
        (tree / "bucket-one" / name).mkdir(parents=True)
    one = daemon(tree, "--admin", "127.0.0.1:0", "--seal-after", "100ms", "--watch-after", "0s")
    is_watched = lambda: admin.Metrics(one)("twintree_watch_directories", state="watched") == 4  # noqa: E731
    server.wait_until(is_watched, "the root, the bucket and its folders are watched")
    (tree / "bucket-one" / "one" / "direct").write_bytes(random.bytes(300_000))
    server.wait_until(lambda: admin.Metrics(one)("twintree_seal_files_total", outcome="sealed") == 1, "it is sealed", 60)
    metrics = admin.Metrics(one)
    assert metrics("twintree_seal_bytes_total") >= 300_000
    assert sum(metrics.by("twintree_seal_queue_files", "why").values()) == 0
    assert metrics("twintree_watch_overflows_total") == 0


def outcomes(metrics):
    """Calls of the mount by operation and outcome, as the daemon counted them."""
    return metrics.by("twintree_mount_calls_total", "operation", "outcome")


def test_after_a_load_in_the_mount_its_counters_equal_what_the_program_did(daemon, tree, tmp_path, random):
    """Only what the kernel never answers by itself is counted to the last one."""
    (tree / "bucket-one").mkdir()
    body = random.bytes(300_001)
    (tree / "bucket-one" / "large").write_bytes(body)
    point = tmp_path / "mount"
    point.mkdir()
    one = daemon(tree, "--admin", "127.0.0.1:0", "--mount", point, "--mount-mode", "plain", beside=False)
    bucket = point / "bucket-one"

    def work(number):
        """What one program does."""
        own = bucket / f"folder-{number}"
        own.mkdir()
        for name in range(5):
            with open(own / f"file-{name}", "xb", buffering=0) as file:
                assert file.write(b"x" * 1000) == 1000
                assert file.write(b"y" * 24) == 24
                os.fsync(file.fileno())
                os.posix_fallocate(file.fileno(), 0, 4096)
        os.rename(own / "file-0", own / "renamed")
        os.link(own / "file-1", own / "linked")
        os.symlink("file-1", own / "symlink")
        os.setxattr(own / "file-2", "user.mine", b"kept")
        with pytest.raises(OSError):
            os.getxattr(own / "file-2", "user.none")
        with pytest.raises(OSError):
            own.rmdir()
        for name in sorted(os.listdir(own)):
            (own / name).unlink()
        own.rmdir()
        return (bucket / "large").read_bytes() if number == 0 else body

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(read == body for read in pool.map(work, range(24)))
    done = {("mkdir", "ok"): 24, ("create", "ok"): 120, ("write", "ok"): 240, ("fsync", "ok"): 120, ("fallocate", "ok"): 120, ("rename", "ok"): 24,
            ("link", "ok"): 24, ("symlink", "ok"): 24, ("setxattr", "ok"): 24, ("rmdir", "ENOTEMPTY"): 24, ("unlink", "ok"): 168,
            ("rmdir", "ok"): 24}
    metrics = admin.Metrics(one)
    counted = outcomes(metrics)
    assert {key: counted[key] for key in done} == done
    assert set(counted) >= {("lookup", "ok"), ("lookup", "ENOENT"), ("getattr", "ok"), ("open", "ok"), ("read", "ok"), ("flush", "ok")}
    assert counted["getxattr", "ENODATA"] >= 24, "the kernel asks for attributes of its own as well"
    assert not {operation for operation, outcome in counted if outcome == "other"}
    assert metrics.by("twintree_mount_bytes_total", "direction") == {"read": len(body), "written": 120 * 1024}
    # The kernel closes after the program went on.
    opened = counted["create", "ok"] + counted["open", "ok"]
    server.wait_until(lambda: outcomes(admin.Metrics(one))["release", "ok"] == opened, "all are closed")
    metrics = admin.Metrics(one)
    by_operation = collections.Counter()
    for (operation, _), count in outcomes(metrics).items():
        by_operation[operation] += count
    assert metrics.by("twintree_mount_call_duration_seconds_count", "operation") == by_operation
    assert all(0 < seconds < 8 * 60 for seconds in metrics.by("twintree_mount_call_duration_seconds_sum", "operation").values())


def test_works_that_wait_for_the_disk_are_counted_and_none_is_left(watched, random):
    client = s3.client(watched.url)
    for number in range(10):
        client.put_object(Bucket="bucket-one", Key=f"large-{number}", Body=random.bytes(1 << 20))
    assert admin.settled(watched)("twintree_pool_works_total") >= 10
    server.wait_until(lambda: admin.Metrics(watched)("twintree_pool_running") == 0, "all works are done")
    assert admin.Metrics(watched)("twintree_pool_queued") == 0


def test_open_files_and_connections_are_what_the_kernel_says(watched):
    crowd = [wire.Connection(watched) for _ in range(10)]
    server.wait_until(lambda: admin.Metrics(watched)("twintree_connections_open") == 10, "all are open")
    count = len(os.listdir(f"/proc/{watched.pid}/fd"))
    # The admin connection that asks is one more.
    assert abs(admin.Metrics(watched)("process_open_fds") - count) <= 2
    for one in crowd:
        one.close()
    server.wait_until(lambda: admin.Metrics(watched)("twintree_connections_open") == 0, "all are closed")


# Readiness.

def ready(daemon):
    """The answer of /health/ready: status, and the causes."""
    answer = admin.page(daemon, "/health/ready")
    return answer.status, answer.text.splitlines()


def test_ready_says_that_the_root_is_gone_or_another_and_that_it_is_back(watched, tree):
    assert ready(watched) == (200, ["ready"])
    aside = tree.parent / "aside"
    tree.rename(aside)
    status, causes = ready(watched)
    assert status == 503 and len(causes) == 1 and f"{tree} is gone" in causes[0], causes
    tree.mkdir()
    status, causes = ready(watched)
    assert status == 503 and len(causes) == 1 and f"{tree} was replaced" in causes[0], causes
    assert admin.page(watched, "/health/live").status == 200
    assert admin.Metrics(watched)("twintree_build_info", version="0.1.0") == 1
    tree.rmdir()
    aside.rename(tree)
    assert ready(watched) == (200, ["ready"])


@pytest.fixture
def disk(tmp_path):
    """A small filesystem of its own, mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_ready_says_that_the_root_became_read_only_and_that_it_is_writable_again(daemon, disk):
    one = daemon(disk, "--admin", "127.0.0.1:0", beside=False)
    two = daemon(disk, "--admin", "127.0.0.1:0", "--read-only", beside=False)
    assert ready(one) == ready(two) == (200, ["ready"])
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    status, causes = ready(one)
    assert status == 503 and len(causes) == 1 and f"{disk} is read-only" in causes[0], causes
    assert ready(two) == (200, ["ready"]), "who only reads is as well as before"
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert ready(one) == (200, ["ready"])


def test_ready_says_that_the_mount_is_gone(daemon, tree, tmp_path):
    point = tmp_path / "mount"
    point.mkdir()
    one = daemon(tree, "--admin", "127.0.0.1:0", "--mount", point)
    assert ready(one) == (200, ["ready"])
    assert admin.Metrics(one)("twintree_mount_up") == 1
    subprocess.run(["umount", str(point)], check=True)
    status, causes = ready(one)
    assert status == 503 and len(causes) == 1 and f"the mount on {point} is gone" in causes[0], causes
    assert admin.Metrics(one)("twintree_mount_up") == 0


def test_ready_says_that_it_drains_while_what_is_in_flight_goes_on(daemon, tree, random):
    (tree / "bucket-one").mkdir()
    body = random.bytes(64 << 20)
    (tree / "bucket-one" / "large").write_bytes(body)
    one = daemon(tree, "--admin", "127.0.0.1:0", beside=False)
    with wire.Connection(one) as connection:
        connection.send("GET", "/bucket-one/large", wire.Signer().headers("GET", "/bucket-one/large", connection.host))
        server.wait_until(lambda: admin.Metrics(one)("twintree_requests_in_flight") == 1, "it is under way")
        one.process.terminate()
        server.wait_until(lambda: ready(one) == (503, ["draining: no new connections are taken"]), "it drains")
        assert admin.page(one, "/health/live").status == 200
        assert connection.answer().body == body
