"""SIGHUP: keys, certificate, log and kinds of ETags are read again while everything goes on; a mistake changes nothing."""

import os
import pty
import signal
import socket
import ssl
import subprocess
import threading
import urllib.parse

import pytest
from lib import admin, command, s3, server, tls, wire


def said(daemon, words):
    """How often the log has said this."""
    return daemon.log.read_text().count(words)


def reload(daemon, words="reloaded: keys"):
    """Sends SIGHUP and waits until the log has said so once more."""
    before = said(daemon, words)
    daemon.process.send_signal(signal.SIGHUP)
    server.wait_until(lambda: said(daemon, words) > before, f"the log says {words!r}")


@pytest.fixture
def config(tmp_path):
    """A config file that can be written anew."""
    class File:
        path = tmp_path / "twintree.toml"

        def write(self, *lines):
            self.path.write_text("\n".join(lines) + "\n")
            return self.path

    return File()


@pytest.fixture
def place(tree):
    """A tree with one bucket and an object."""
    (tree / "bucket-one").mkdir()
    (tree / "bucket-one" / "a").write_bytes(b"a" * 100)
    return tree


# Keys.

def test_keys_from_the_config_file_are_replaced(daemon, place, config):
    old, new = ("OLDKEY", "old-secret-key"), ("NEWKEY", "new-secret-key")
    one = daemon(place, "--config", config.write(f'access-key = "{old[0]}"', f'secret-key = "{old[1]}"'), keys=False)
    clients = {pair: s3.client(one.url, access_key=pair[0], secret_key=pair[1]) for pair in (old, new)}
    clients[old].list_buckets()
    s3.refused(403, "InvalidAccessKeyId", clients[new].list_buckets)
    config.write(f'access-key = "{new[0]}"', f'secret-key = "{new[1]}"')
    reload(one)
    clients[new].list_buckets()
    s3.refused(403, "InvalidAccessKeyId", clients[old].list_buckets)
    assert 'changed="access-key, secret-key"' in one.log.read_text()
    assert "secret-key" in one.log.read_text() and new[1] not in one.log.read_text()


def test_a_secret_of_the_same_name_takes_its_derived_keys_with_it(daemon, place, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("SAMEKEY\nthe-first-secret\n")
    one = daemon(place, "--credentials", keys, keys=False)
    with wire.Connection(one) as connection:
        first, second = (wire.Signer("SAMEKEY", secret) for secret in ("the-first-secret", "the-second-secret"))
        assert connection.ask("GET", "/bucket-one/a", signer=first).status == 200
        keys.write_text("SAMEKEY\nthe-second-secret\n")
        reload(one)
        assert connection.ask("GET", "/bucket-one/a", signer=second).status == 200, "on the very connection"
        assert connection.ask("GET", "/bucket-one/a", signer=first).code == "SignatureDoesNotMatch"


def test_keys_that_nobody_gives_any_more_stay(daemon, place, config):
    """A new pair would be shown to nobody."""
    one = daemon(place, "--config", config.write('access-key = "GIVEN"', 'secret-key = "given-secret-key"'), keys=False)
    config.write("")
    reload(one)
    s3.client(one.url, access_key="GIVEN", secret_key="given-secret-key").list_buckets()
    assert not (one.state / "credentials").exists()


# What is logged, and ETags.

@pytest.mark.parametrize("form", ["text", "json"])
def test_what_is_logged_changes(daemon, place, config, form):
    one = daemon(place, "--config", config.write('log = "warn"'), "--log-format", form)
    client = s3.client(one.url)
    client.list_buckets()
    config.write('log = "info"')
    before = one.log.read_text()
    assert "ListBuckets" not in before
    reload(one)
    client.list_buckets()
    server.wait_until(lambda: said(one, "ListBuckets") == 1, "requests are logged")
    config.write('log = "warn"')
    one.process.send_signal(signal.SIGHUP)

    def is_silent():
        count = said(one, "ListBuckets")
        client.list_buckets()
        client.head_bucket(Bucket="bucket-one")
        return said(one, "ListBuckets") == count

    server.wait_until(is_silent, "requests are not logged any more")


def test_kinds_of_etags_change_for_all_and_for_one(daemon, place, config):
    one = daemon(place, "--config", config.write(""))
    client = s3.client(one.url)
    client.create_bucket(Bucket="bucket-two")

    def kinds():
        tags = {bucket: client.put_object(Bucket=bucket, Key="x", Body=b"x")["ETag"].strip('"') for bucket in ("bucket-one", "bucket-two")}
        return {bucket: "crc64" if tag.endswith("-1") else "md5" for bucket, tag in tags.items()}

    assert kinds() == {"bucket-one": "md5", "bucket-two": "md5"}
    config.write("[buckets.bucket-one]", 'etag = "crc64"')
    reload(one)
    assert kinds() == {"bucket-one": "crc64", "bucket-two": "md5"}
    config.write('etag = "crc64"', "[buckets.bucket-one]", 'etag = "md5"')
    reload(one)
    assert kinds() == {"bucket-one": "md5", "bucket-two": "crc64"}


# What cannot, and mistakes.

def test_what_waits_for_a_restart_is_named_and_does_not_count(daemon, place, config):
    one = daemon(place, "--config", config.write('region = "here"', "max-connections = 10"))
    config.write('region = "there"', "read-only = true", 'log = "debug"')
    reload(one)
    line = [text for text in one.log.read_text().splitlines() if "count after a restart only" in text]
    assert len(line) == 1 and "WARN" in line[0] and 'settings="max-connections, read-only, region"' in line[0], line
    assert 'changed="log"' in one.log.read_text()
    s3.client(one.url).put_object(Bucket="bucket-one", Key="b", Body=b"b")
    reload(one)
    assert said(one, "count after a restart only") == 1, "it is said once"


@pytest.mark.parametrize("mistake", ["unknown", "wrong", "half", "gone", "certificate"])
def test_a_mistake_anywhere_changes_nothing(daemon, place, config, authority, tmp_path, mistake):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_text(open(authority.certificate).read())
    key.write_text(open(authority.key).read())
    keys = ('access-key = "OLDKEY"', 'secret-key = "old-secret-key"')
    tls_lines = (f'tls-cert = "{certificate}"', f'tls-key = "{key}"')
    one = daemon(place, "--config", config.write(*keys, *tls_lines), keys=False)
    changed = ('access-key = "NEWKEY"', 'secret-key = "new-secret-key"', 'log = "error"', 'etag = "crc64"', *tls_lines)
    if mistake == "unknown":
        config.write(*changed, "colour = 1")
    elif mistake == "wrong":
        config.write(*changed, 'seal = "perhaps"')
    elif mistake == "half":
        config.write(*changed[1:])
    elif mistake == "gone":
        config.path.unlink()
    else:
        config.write(*changed)
        certificate.write_text("-----BEGIN CERTIFICATE-----\nhalf of it")
    reload(one, "nothing is reloaded, everything stays as it was")
    client = s3.client(one.url, verify=authority.ca, access_key="OLDKEY", secret_key="old-secret-key")
    assert not client.put_object(Bucket="bucket-one", Key="x", Body=b"x")["ETag"].strip('"').endswith("-1")
    server.wait_until(lambda: said(one, "PutObject") == 1, "requests are logged as before")
    assert "ERROR" in one.log.read_text() and "new-secret-key" not in one.log.read_text()


# The certificate.

def shown_by(daemon, authorities):
    """Which of the authorities vouches for what a new connection is shown."""
    address = urllib.parse.urlsplit(daemon.url)
    for name, authority in authorities.items():
        context = ssl.create_default_context(cafile=authority.ca)
        with socket.create_connection((address.hostname, address.port), timeout=30) as plain:
            try:
                context.wrap_socket(plain, server_hostname="127.0.0.1").close()
                return name
            except ssl.SSLCertVerificationError:
                pass
    return None


def put_in_place(authority, certificate, key):
    """Renews both files as a certificate's agent does: each by a rename."""
    for source, target in ((authority.certificate, certificate), (authority.key, key)):
        fresh = target.with_suffix(".new")
        fresh.write_bytes(open(source, "rb").read())
        os.rename(fresh, target)


def test_the_certificate_is_replaced_under_load_and_no_request_fails(daemon, place, tmp_path, random):
    authorities = {}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        authorities[name] = tls.Authority(tmp_path / name)
    both = tmp_path / "both.pem"
    both.write_text("".join(open(one.ca).read() for one in authorities.values()))
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    put_in_place(authorities["first"], certificate, key)
    body = random.bytes(300_000)
    (place / "bucket-one" / "large").write_bytes(body)
    one = daemon(place, "--tls-cert", certificate, "--tls-key", key, "--admin", "127.0.0.1:0")
    stop, failures, counts = threading.Event(), [], {"kept": 0, "new": 0}

    def load(kind):
        """GETs until told to stop, on one connection or on one each."""
        connection = None
        try:
            while not stop.is_set():
                connection = connection or wire.Connection(one, ca=str(both))
                target, wanted = ("/bucket-one/large", body) if counts[kind] % 2 else ("/bucket-one/a", b"a" * 100)
                assert connection.ask("GET", target).body == wanted
                counts[kind] += 1
                if kind == "new":
                    connection.close()
                    connection = None
        except Exception as error:  # noqa: BLE001  (whatever it is, it is a failed request)
            failures.append((kind, repr(error)))

    threads = [threading.Thread(target=load, args=(kind,)) for kind in ("kept", "kept", "new", "new")]
    for thread in threads:
        thread.start()
    try:
        assert shown_by(one, authorities) == "first"
        for turn in range(6):
            name = ("second", "first")[turn % 2]
            put_in_place(authorities[name], certificate, key)
            reload(one)
            assert shown_by(one, authorities) == name
            served = dict(counts)
            server.wait_until(lambda: all(counts[kind] > served[kind] or failures for kind in counts), "both kinds of clients go on")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    metrics = admin.settled(one)
    # shown_by's own handshakes fail on purpose where the other authority vouches.
    assert metrics.by("twintree_responses_cut_total", "operation") == {}
    assert metrics("twintree_requests_total", operation="GetObject", status="200") == sum(counts.values())


def test_a_connection_that_stands_keeps_its_certificate_and_goes_on(daemon, place, tmp_path, authority):
    (tmp_path / "second").mkdir()
    second = tls.Authority(tmp_path / "second")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    put_in_place(authority, certificate, key)
    one = daemon(place, "--tls-cert", certificate, "--tls-key", key)
    with wire.Connection(one, ca=authority.ca) as connection:
        assert connection.ask("GET", "/bucket-one/a").status == 200
        put_in_place(second, certificate, key)
        reload(one)
        assert connection.ask("GET", "/bucket-one/a").status == 200
        assert shown_by(one, {"first": authority, "second": second}) == "second"


# The signal itself.

def test_without_a_config_file_it_changes_nothing_and_ends_nothing(served):
    for _ in range(3):
        reload(served)
    assert 'changed=""' in served.log.read_text()
    s3.client(served.url).list_buckets()


def test_who_is_started_at_a_terminal_ends_with_it(tree, tmp_path):
    """A shell's window that is closed sends SIGHUP, too."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([server.BINARY, "serve", str(tree), "--listen", "127.0.0.1:0", "--state-dir", str(tmp_path / "state")],
                               stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=command.environment())
    try:
        os.close(theirs)
        assert b"listening" in process.stdout.readline()
        process.send_signal(signal.SIGHUP)  # the terminal is there: a reload
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.stdout.close()
