"""What whoever operates the daemon asks of its admin listener."""

import http.client
import socket
import types
import urllib.parse

from prometheus_client import parser

from . import server


class OverSocket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


def page(daemon, path, method="GET", body=None, headers=()):
    """One page of the admin listener: status, headers, text."""
    if daemon.admin.startswith("unix:"):
        connection = OverSocket(daemon.admin.removeprefix("unix:"))
    else:
        address = urllib.parse.urlsplit(daemon.admin)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    try:
        connection.request(method, path, body=body, headers=dict(headers))
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    return types.SimpleNamespace(status=answer.status, headers=answer.headers, text=text)


class Metrics:
    """What /metrics said at one moment, read by Prometheus' own parser."""

    def __init__(self, daemon):
        answer = page(daemon, "/metrics")
        assert answer.status == 200, answer.text
        self.text = answer.text
        self.families = list(parser.text_string_to_metric_families(answer.text))
        self.samples = {}
        for family in self.families:
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in self.samples, f"twice: {key}"
                self.samples[key] = sample.value

    def __call__(self, name, **labels):
        """One sample's value; 0 where nothing was counted yet."""
        return self.samples.get((name, frozenset(labels.items())), 0)

    def by(self, name, *labels):
        """A metric's values by some of its labels; those that are 0 are left out."""
        found = {}
        for (sample, pairs), value in self.samples.items():
            if sample == name and value:
                values = dict(pairs)
                key = tuple(values[label] for label in labels) if len(labels) > 1 else values[labels[0]]
                found[key] = found.get(key, 0) + value
        return found


def settled(daemon):
    """The metrics when no request is under way."""
    def look():
        metrics = Metrics(daemon)
        return metrics if metrics("twintree_requests_in_flight") == 0 else None

    return server.wait_until(look, "every request has ended")
