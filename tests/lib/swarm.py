"""Many lean clients on two processes of one tree, of which one is killed and started again while they ask.

A client is one connection that is kept, and signs for itself: boto3 would be slower than what it tests, and requests that
are ready before they are sent arrive closer together.
"""

import threading

from . import server, wire

SECONDS = 60


class Lost(Exception):
    """The request was sent, or some of it, and no answer came: it took effect, or not."""


class Pair:
    """Two processes on one root. The second may be killed at any moment; `turn` counts requests towards that."""

    def __init__(self, daemon, tree, *flags):
        self.daemons = [daemon(tree, *flags), daemon(tree, *flags)]
        self._state = threading.Condition()
        self._up = [one.url for one in self.daemons]
        self._turns = 0
        self._marks = []
        self._killer = None
        self.kills = 0

    def url(self, which):
        """Where a process listens; waits while it is down."""
        with self._state:
            assert self._state.wait_for(lambda: self._up[which], SECONDS), "it does not come up again"
            return self._up[which]

    def turn(self):
        """A request is on its way."""
        with self._state:
            self._turns += 1
            if self._marks and self._turns >= self._marks[0]:
                self._state.notify_all()

    def kill_at(self, marks):
        """Kills the second process with SIGKILL whenever so many requests were sent, and starts it again at once."""
        self._marks = sorted(marks)
        if self._marks:
            self._killer = threading.Thread(target=self._kill, daemon=True)
            self._killer.start()

    def _kill(self):
        while True:
            with self._state:
                self._state.wait_for(lambda: not self._marks or self._turns >= self._marks[0])
                if not self._marks:
                    return
                self._marks.pop(0)
                self._up[1] = None
            self.daemons[1].kill()
            self.daemons[1].start()
            with self._state:
                self._up[1] = self.daemons[1].url
                self.kills += 1
                self._state.notify_all()

    def end(self):
        """No more kills; both are up."""
        with self._state:
            self._marks = []
            self._state.notify_all()
        if self._killer:
            self._killer.join(SECONDS)
            assert not self._killer.is_alive()


class Client:
    """One connection to one of the two processes."""

    def __init__(self, pair, which):
        self.pair, self.which = pair, which
        self._connection = self._url = None

    def connect(self):
        """Makes sure of a connection to the process as it runs now."""
        for _ in range(100):
            url = self.pair.url(self.which)
            if self._connection and self._url == url:
                return
            self.drop()
            try:
                self._connection, self._url = wire.Connection(None, url=url, seconds=SECONDS), url
            except ConnectionError:
                continue  # it was killed meanwhile
        raise AssertionError("no connection")

    def drop(self):
        """Closes the connection."""
        if self._connection:
            self._connection.close()
        self._connection = None

    def ready(self, method, target, body=b"", headers=()):
        """Connects and signs; gives what `send` takes."""
        self.connect()
        length = {"content-length": len(body)} if body or method in ("PUT", "POST") else {}
        every = wire.Signer().headers(method, target, self._connection.host, headers, wire.hashlib.sha256(body).hexdigest())
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in (every | length).items())]
        return method, "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def send(self, ready):
        """Sends what is ready and gives the answer; `Lost` where none came."""
        method, words = ready
        self.pair.turn()
        try:
            self._connection.socket.sendall(words)
            return self._connection.answer(method)
        except (ConnectionError, ValueError, IndexError) as error:  # nothing, or a cut line
            self.drop()
            raise Lost(str(error)) from None

    def ask(self, method, target, body=b"", headers=()):
        """Both in one."""
        return self.send(self.ready(method, target, body, headers))

    def insist(self, method, target, body=b"", headers=(), *, status=(200,)):
        """Asks again until an answer comes, for what may be done twice; it must be one of these."""
        for _ in range(100):
            try:
                answer = self.ask(method, target, body, headers)
            except Lost:
                continue
            assert answer.status in status, answer
            return answer
        raise AssertionError("never an answer")


def together(work, count):
    """Runs `work(number)` in so many threads, and raises what the first of them raised."""
    raised = []

    def one(number):
        try:
            work(number)
        except BaseException as error:  # an assertion of a thread is the test's
            raised.append(error)

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(server.STOP_SECONDS * 10)
    if raised:
        raise raised[0]
    assert not any(thread.is_alive() for thread in threads), "a client hangs"
