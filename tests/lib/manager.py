"""A service manager for tests: it holds sockets, hands them over, and hears what its service says (sd_notify, sd_listen_fds).

Run as a program it is the step between fork and exec: `manager.py 5,7 COMMAND...` makes descriptors 5 and 7 to 3 and 4,
says so in the environment, and becomes the command.
"""

import os
import pathlib
import socket
import sys

FIRST = 3  # SD_LISTEN_FDS_START
WAIT_SECONDS = 20


class Manager:
    """Hears one service. `environment` and `wrapper` are for its `Daemon`, which must be given `pass_fds` as well."""

    def __init__(self, folder, *sockets, watchdog=None):
        self.path = pathlib.Path(folder) / "notify"
        self.heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.heard.bind(str(self.path))
        self.heard.settimeout(WAIT_SECONDS)
        self.sockets = sockets
        self.environment = {"NOTIFY_SOCKET": str(self.path)}
        if watchdog is not None:
            self.environment["WATCHDOG_USEC"] = str(int(watchdog * 1e6))

    @property
    def pass_fds(self):
        """The descriptors that the service gets."""
        return [one.fileno() for one in self.sockets]

    @property
    def wrapper(self):
        """What stands before the command, so that it finds the sockets."""
        if not self.sockets:
            return ()
        return (sys.executable, __file__, ",".join(map(str, self.pass_fds)))

    def next(self):
        """The next message, as a dict; fails when none comes."""
        message = self.heard.recv(65536).decode()
        return dict(line.split("=", 1) for line in message.splitlines())

    def until(self, name):
        """The first message that says `name`."""
        while True:
            message = self.next()
            if name in message:
                return message

    def waiting(self):
        """All messages that have come already."""
        found = []
        self.heard.setblocking(False)
        try:
            while True:
                found.append(self.next())
        except BlockingIOError:
            return found
        finally:
            self.heard.settimeout(WAIT_SECONDS)

    def close(self):
        """Gives up all sockets."""
        for one in (self.heard, *self.sockets):
            one.close()


def become(descriptors, command):
    """Puts the descriptors where a service looks for them, and becomes it."""
    # Above all of them first: one may lie where another is to be.
    high = [os.dup(number) for number in descriptors]
    high = [os.dup2(number, 100 + place) for place, number in enumerate(high)]
    for place, number in enumerate(high):
        os.dup2(number, FIRST + place)  # not closed by exec
    os.closerange(FIRST + len(high), 200)
    os.environ |= {"LISTEN_FDS": str(len(high)), "LISTEN_PID": str(os.getpid())}
    os.execvp(command[0], command)


if __name__ == "__main__":
    become([int(number) for number in sys.argv[1].split(",")], sys.argv[2:])
