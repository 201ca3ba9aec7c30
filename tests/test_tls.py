"""TLS: which certificate a client is shown, which versions are spoken, and which clients get in."""

import os
import signal
import socket
import ssl
import subprocess
import types

import pytest
from lib import command, s3, server, tls


@pytest.fixture
def others(tmp_path):
    """Two certificates of an authority of their own: for one.test with *.s3.one.test, and for two.test."""
    return [tls.Leaf(tmp_path, "one.test", "DNS:one.test,DNS:*.s3.one.test,IP:127.0.0.1"), tls.Leaf(tmp_path, "two.test", "DNS:two.test")]


def flags_of(*certificates):
    return [word for one in certificates for word in ("--tls-cert", one.certificate, "--tls-key", one.key)]


def shown(one, name=None, **how):
    """The common name of the certificate that a client is shown which asks for `name`; and the version that is spoken."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for attribute, value in how.items():
        setattr(context, attribute, value)
    with socket.create_connection(("127.0.0.1", one.port), timeout=20) as plain, context.wrap_socket(plain, server_hostname=name) as secure:
        der = secure.getpeercert(binary_form=True)
        version = secure.version()
    told = subprocess.run(["openssl", "x509", "-inform", "DER", "-noout", "-subject", "-nameopt", "multiline"], input=der, capture_output=True, check=True)
    return told.stdout.decode().split("commonName")[1].strip(" =\n"), version


@pytest.mark.parametrize(("name", "wanted"), [
    ("one.test", "one.test"), ("bucket.s3.one.test", "one.test"), ("two.test", "two.test"), ("TWO.test", "two.test"),
    ("three.test", "one.test"), ("a.two.test", "one.test"), (None, "one.test"),
])
def test_a_client_is_shown_the_certificate_for_the_name_that_it_asks_for(daemon, tree, others, name, wanted):
    one = daemon(tree, *flags_of(*others))
    assert shown(one, name)[0] == wanted


def test_lists_in_the_config_file_and_in_the_environment_are_pairs_too(daemon, tree, tmp_path, others):
    config = tmp_path / "twintree.toml"
    config.write_text(f"tls-cert = {[one.certificate for one in others]}\ntls-key = {[one.key for one in others]}\n".replace("'", '"'))
    by_file = daemon(tree, "--config", config)
    by_environment = daemon(tree, environment={"TWINTREE_TLS_CERT": ",".join(one.certificate for one in others), "TWINTREE_TLS_KEY": ",".join(one.key for one in others)})
    for one in (by_file, by_environment):
        assert [shown(one, name)[0] for name in ("one.test", "two.test")] == ["one.test", "two.test"]
    said = command.run("config", "show", tree, "--config", config).stdout.decode()
    assert all(one.certificate in said for one in others), said


def test_all_of_them_are_read_again_on_sighup(daemon, tree, tmp_path, others):
    one = daemon(tree, *flags_of(*others), "--admin", "127.0.0.1:0", "--admin-tls")
    admin = types.SimpleNamespace(port=int(one.admin.rsplit(":", 1)[1]))
    assert shown(admin, "two.test")[0] == "two.test"
    assert shown(one, "two.test")[0] == "two.test"
    tls.Leaf(tmp_path, "two.test", "DNS:two.test", subject="the new two")
    os.kill(one.pid, signal.SIGHUP)
    server.wait_until(lambda: shown(one, "two.test")[0] == "the new two", "the new certificate is shown")
    assert shown(admin, "two.test")[0] == "the new two"
    assert shown(one, "one.test")[0] == "one.test"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the versions that must not be spoken
def test_tls_1_2_and_1_3_are_spoken_and_nothing_older(secure):
    for version, wanted in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        assert shown(secure, maximum_version=version)[1] == wanted
    with pytest.raises((ssl.SSLError, OSError)):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", secure.port), timeout=20) as plain, context.wrap_socket(plain):
            pass


def get(one, authority, client=None):
    """Asks for something over TLS, without a key; the status, or None where the client does not get in."""
    context = ssl.create_default_context(cafile=authority.ca)
    if client:
        context.load_cert_chain(client.certificate, client.key)
    try:
        with socket.create_connection(("127.0.0.1", one.port), timeout=20) as plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return int(secure.recv(100).split()[1])
    except (ssl.SSLError, ConnectionError, IndexError):
        return None


def test_only_clients_of_the_named_authority_get_in_and_they_need_a_key_all_the_same(daemon, tree, tmp_path, authority):
    known = tls.Leaf(tmp_path, "known", "DNS:known", usage="clientAuth")
    strange = tls.Leaf(tmp_path / "elsewhere", "strange", "DNS:strange", usage="clientAuth")
    one = daemon(tree, "--tls-cert", authority.certificate, "--tls-key", authority.key, "--tls-client-ca", known.ca)
    assert get(one, authority, known) == 403, "who gets in is nobody yet"
    assert get(one, authority) is None and get(one, authority, strange) is None
    open_to_all = daemon(tree, "--tls-cert", authority.certificate, "--tls-key", authority.key)
    assert get(open_to_all, authority) == 403


@pytest.mark.parametrize(("words", "says"), [
    (["--tls-cert", "CERT", "--tls-key", "KEY", "--tls-cert", "CERT"], "tls-cert and tls-key go together"),
    (["--tls-client-ca", "CERT"], "tls-client-ca"),
    (["--tls-cert", "CERT", "--tls-key", "KEY", "--tls-client-ca", "KEY"], "no certificate in it"),
])
def test_what_does_not_go_together_is_said(tree, authority, words, says):
    words = [{"CERT": authority.certificate, "KEY": authority.key}.get(word, word) for word in words]
    for command_line in (["serve", tree, *words], ["config", "check", tree, *words]):
        done = command.run(*command_line)
        assert done.returncode in (1, 64) and says in done.stderr.decode(), done


def test_an_object_comes_over_each_name(daemon, tree, others):
    one = daemon(tree, *flags_of(*others))
    client = s3.client(one.url, verify=others[0].ca)
    client.create_bucket(Bucket="bucket-one")
    client.put_object(Bucket="bucket-one", Key="k", Body=b"body")
    assert s3.body(client, "bucket-one", "k") == b"body"
