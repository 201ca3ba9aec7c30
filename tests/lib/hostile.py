"""Two daemons that are sent what no client sends, and the words for it: requests written out, answers counted."""

import contextlib
import socket
import types

from . import data, server, wire

TARGET = "/bucket-one/object"
SMUGGLED = "/bucket-one/smuggled"
MIB = data.MIB


def begin(folder_factory, name, authority, *flags):
    """Two daemons on one tree, in the clear and with TLS, and an object in it."""
    folder = folder_factory.mktemp(name)
    tree = folder / "tree"
    (tree / "bucket-one").mkdir(parents=True)
    secured = ["--tls-cert", authority.certificate, "--tls-key", authority.key]
    plain = server.Daemon(tree, folder / "plain", "--durability", "relaxed", *flags)
    secure = server.Daemon(tree, folder / "secure", "--durability", "relaxed", *flags, *secured)
    old = data.Source(name).bytes(5000)
    place = types.SimpleNamespace(plain=plain.start(), secure=secure.start(), ca=authority.ca, old=old, directory=tree / "bucket-one")
    with wire.Connection(plain) as connection:
        assert connection.ask("PUT", TARGET, old).status == 200
    return place


def serves_on(place):
    """A new client is served, the object is what it was, and nothing lies beside it."""
    for daemon, ca in ((place.plain, None), (place.secure, place.ca)):
        with wire.Connection(daemon, ca=ca) as connection:
            answer = connection.ask("GET", TARGET)
        assert (answer.status, answer.body) == (200, place.old)
    assert visible(place) == ["object"]


def visible(place):
    """What lies in the bucket."""
    return sorted(path.name for path in place.directory.iterdir() if path.name != ".twintree")


def request(place, method, target, lines=(), *, headers=(), payload=wire.UNSIGNED, version="HTTP/1.1", without=(), signer=None, host=None):
    """The head of a signed request, with lines of any kind behind it."""
    host = host or place.plain.url.removeprefix("http://")
    every = (signer or wire.Signer()).headers(method, target, host, dict(headers), payload)
    kept = [f"{name}: {value}".encode() for name, value in every.items() if name not in without]
    more = [line if isinstance(line, bytes) else line.encode() for line in lines]
    return b"\r\n".join([f"{method} {target} {version}".encode(), *kept, *more, b"", b""])


def smuggled(place):
    """A whole, well-signed request that stands where a body or junk is."""
    return request(place, "PUT", SMUGGLED, ["content-length: 0"])


def exchange(place, sent, methods=("GET",), *, ends=False):
    """Sends, reads an answer for each of `methods`, then says that there is no more and reads what comes still.

    `ends`: says so at once, for bodies that end too early. (Who says so while a request waits gives its answer up.)
    """
    answers, methods = [], list(methods)
    with wire.Connection(place.plain) as connection:
        connection.socket.sendall(sent)
        while True:
            if ends or not methods:
                with contextlib.suppress(OSError):  # the server has closed already
                    connection.socket.shutdown(socket.SHUT_WR)
            try:
                answers.append(connection.answer(methods.pop(0) if methods else "GET"))
            except ConnectionError:
                return answers


def outcomes(answers):
    """Status and code of each answer."""
    return [(answer.status, answer.code) for answer in answers]


class Joined:
    """Bytes that were read already, and then the rest of a file."""

    def __init__(self, first, rest):
        self.first, self.rest = first, rest

    def readline(self):
        line, found, after = self.first.partition(b"\n")
        self.first = after
        return line + found if found else line + self.rest.readline()

    def read(self, count):
        piece, self.first = self.first[:count], self.first[count:]
        return piece + (self.rest.read(count - len(piece)) if len(piece) < count else b"")

    def close(self):
        self.rest.close()
