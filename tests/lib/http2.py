"""HTTP/2 frame by frame, with headers written out: what no client library would send."""

import select
import socket
import ssl
import urllib.parse

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL, ENHANCE_YOUR_CALM = 8, 11
INITIAL_WINDOW_SIZE = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    """One frame (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def setting(name, value):
    """One parameter of a SETTINGS frame."""
    return name.to_bytes(2, "big") + value.to_bytes(4, "big")


def _number(value, bits, first=0):
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([first | value])
    out, value = bytearray([first | limit]), value - limit
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes(out + bytes([value]))


def _text(value):
    raw = str(value).encode()
    return _number(len(raw), 7) + raw


def field(name, value, first=0):
    """One header as a literal with a literal name (RFC 7541, 6.2.2); `first=0x40` puts it into the dynamic table."""
    return bytes([first]) + _text(name) + _text(value)


def head(method, target, authority, headers):
    """A request's header block."""
    pseudo = {":method": method, ":scheme": "https", ":path": target, ":authority": authority}
    return b"".join(field(name, value) for name, value in [*pseudo.items(), *headers.items()])


class Connection:
    """A TLS connection on which HTTP/2 was agreed and the preface was sent."""

    def __init__(self, daemon, ca, settings=b"", seconds=30):
        address = urllib.parse.urlsplit(daemon.url)
        self.authority = address.netloc
        context = ssl.create_default_context(cafile=ca)
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection((address.hostname, address.port), timeout=seconds)
        self.socket = context.wrap_socket(plain, server_hostname="127.0.0.1")
        assert self.socket.selected_alpn_protocol() == "h2"
        self.rest = b""
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings))

    def push(self, data, patience=2):
        """Sends until all is sent, the server hangs up, or it takes nothing for `patience` seconds; says how much went."""
        self.socket.setblocking(False)
        sent = 0
        try:
            while sent < len(data):
                try:
                    sent += self.socket.send(data[sent:sent + 65536])
                except ssl.SSLWantWriteError:
                    if not select.select([], [self.socket], [], patience)[1]:
                        break
                except ssl.SSLWantReadError:
                    if not select.select([self.socket], [], [], patience)[0]:
                        break
        except OSError:
            pass  # reset, or closed
        finally:
            self.socket.settimeout(30)
        return sent

    def next(self):
        """The next frame as (kind, flags, stream, payload); None when the server has hung up."""
        try:
            while len(self.rest) < 9 or len(self.rest) < 9 + int.from_bytes(self.rest[:3], "big"):
                piece = self.socket.recv(65536)
                if not piece:
                    return None
                self.rest += piece
        except TimeoutError:
            raise
        except OSError:
            return None
        end = 9 + int.from_bytes(self.rest[:3], "big")
        whole, self.rest = self.rest[:end], self.rest[end:]
        return whole[3], whole[4], int.from_bytes(whole[5:9], "big") & 0x7FFFFFFF, whole[9:]

    def frames(self):
        """All frames until the server hangs up."""
        while (one := self.next()) is not None:
            yield one

    def close(self):
        """Closes at once."""
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
