"""Fixtures that every suite uses, and the report that tests/run reads."""

import json
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from lib import data, filesystems, s3, server, tables, tls  # noqa: E402  (after the path is set)

OUTCOMES = {}


def pytest_configure(config):
    config.addinivalue_line("markers", "needs(what...): left out on a filesystem that lacks this (lib/filesystems.py)")


def pytest_collection_modifyitems(config, items):
    """Leaves out, and counts, what the filesystem under the tests cannot show."""
    def lacking(item):
        return any(filesystems.lacks(what) for mark in item.iter_markers("needs") for what in mark.args)

    left = [item for item in items if lacking(item)]
    if left:
        OUTCOMES.update({item.nodeid: "left out" for item in left})
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if not lacking(item)]


def pytest_runtest_logreport(report):
    """Keeps the worst outcome of a test's three phases."""
    if report.failed:
        OUTCOMES[report.nodeid] = "failed"
    elif report.skipped:
        OUTCOMES[report.nodeid] = "skipped"
    elif report.when == "call":
        OUTCOMES.setdefault(report.nodeid, "passed")


def pytest_sessionfinish():
    """Writes the outcomes where tests/run asked for them."""
    path = os.environ.get("TWINTREE_TEST_REPORT")
    if path:
        pathlib.Path(path).write_text(json.dumps(OUTCOMES, indent=1))


def pytest_terminal_summary(terminalreporter):
    """Prints what the suite measured."""
    for line in tables.LINES:
        terminalreporter.write_line(line)


@pytest.fixture
def tree(tmp_path):
    """An empty directory to serve."""
    root = tmp_path / "tree"
    root.mkdir()
    return root


@pytest.fixture
def daemon(tmp_path):
    """Starts daemons: `daemon(root, *flags)`; all that still run are stopped afterwards, and must end well."""
    started = []

    def start(root, *flags, **options):
        one = server.Daemon(root, tmp_path / f"daemon-{len(started)}", *flags, **options)
        started.append(one)
        return one.start()

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def served(daemon, tree):
    """A daemon on an empty tree."""
    return daemon(tree)


@pytest.fixture
def client(served):
    """boto3 on that daemon, with s3v4."""
    return s3.client(served.url)


@pytest.fixture
def bucket(client, tree):
    """A fresh bucket's name; where filesystems are nested, its `dir/` is another one."""
    client.create_bucket(Bucket="bucket-one")
    with filesystems.second_one_at(tree / "bucket-one" / "dir"):
        yield "bucket-one"


@pytest.fixture
def random(request):
    """Bytes that are random, never zeros, and the same in every run: seeded with the test's name."""
    return data.Source(request.node.nodeid)


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """A certificate authority of our own with a certificate for the loopback addresses."""
    return tls.Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(daemon, tree, authority):
    """A daemon that speaks TLS, on an empty tree."""
    return daemon(tree, "--tls-cert", authority.certificate, "--tls-key", authority.key)
