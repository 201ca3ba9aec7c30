"""Reads a trace of the daemon and says which of its answers came too early.

An answer of 200 to PUT, Copy and Complete, and of 204 to DELETE, is due when, in this order and each step begun after the
one before had ended: the file's last change; a sync of it (of the file itself, or a syncfs); its name; a sync of the
directory that got (or lost) the name, and of each that got a new folder on the way to it; the answer. Requests and
answers belong together by their socket, and each request of a trace has a key of its own.
"""

import dataclasses
import re
import urllib.parse

CALLS = ("recvfrom,read,fsync,fdatasync,syncfs,linkat,renameat,renameat2,unlinkat,mkdirat,write,writev,sendto,sendmsg,pwrite64,pwritev,"
         "pwritev2,copy_file_range,sendfile,fallocate,ftruncate,fsetxattr,fremovexattr,fchmod,fchown,utimensat,ioctl")
CHANGES = {"write", "writev", "pwrite64", "pwritev", "pwritev2", "copy_file_range", "sendfile", "fallocate", "ftruncate", "fsetxattr",
           "fchmod", "fchown", "utimensat", "ioctl"}
SOCKET = re.compile(r"^\d+<(socket:\[\d+\])>")
REQUEST = re.compile(r'"(PUT|POST|DELETE|GET|HEAD) (\S+) HTTP/1')
ANSWER = re.compile(r"HTTP/1\.1 (\d+)")
ONE = re.compile(r'^\d+<([^>]*)>(?:\(deleted\))?(?:, "([^"]*)")?')
TWO = re.compile(r'^\d+<([^>]*)>(?:\(deleted\))?, "([^"]*)", \d+<([^>]*)>, "([^"]*)"')


@dataclasses.dataclass
class Request:
    """One request, its answer, and the path that its key has."""

    method: str
    path: str
    query: str
    begun: int
    status: int = 0
    answered: int = 0


def requests(events, root):
    """All requests that were answered, in the order of their answers."""
    under_way = {}
    for event in events:
        socket = SOCKET.match(event.words)
        if not socket:
            continue
        if event.name in ("recvfrom", "read") and (asked := REQUEST.search(event.words)):
            path, _, query = asked.group(2).partition("?")
            under_way[socket.group(1)] = Request(asked.group(1), f"{root}{urllib.parse.unquote(path)}", query, event.begun)
        elif event.name in ("write", "writev", "sendto", "sendmsg") and (told := ANSWER.search(event.words)):
            request = under_way.pop(socket.group(1), None)
            if request and int(told.group(1)) != 100:
                request.status, request.answered = int(told.group(1)), event.begun
                yield request


class Log:
    """What was done to each file and directory, by path."""

    def __init__(self, events):
        self.named, self.removed, self.made, self.changed, self.synced, self.whole = {}, {}, {}, {}, {}, []
        for event in events:
            if event.ended is None or event.failed:
                continue
            one, two = ONE.match(event.words), TWO.match(event.words)
            if event.name in ("linkat", "renameat", "renameat2") and two:
                source = two.group(1) if not two.group(2) else f"{two.group(1)}/{two.group(2)}"
                self.named.setdefault(f"{two.group(3)}/{two.group(4)}", []).append((event, source))
            elif event.name in ("unlinkat", "mkdirat") and one:
                into = self.removed if event.name == "unlinkat" else self.made
                into.setdefault(f"{one.group(1)}/{one.group(2)}", []).append(event)
            elif event.name in ("fsync", "fdatasync") and one:
                self.synced.setdefault(one.group(1), []).append(event)
            elif event.name == "syncfs":
                self.whole.append(event)
            elif event.name in CHANGES and one:
                # A copy names the source first.
                target = re.findall(r"\d+<([^>]*)>", event.words)[-1] if event.name == "copy_file_range" else one.group(1)
                self.changed.setdefault(target, []).append(event)

    def sync(self, path, after, before):
        """Was it synced, begun after one line and ended before another?"""
        return any(event.begun > after and event.ended < before for event in [*self.synced.get(path, ()), *self.whole])

    def names_of(self, source):
        """A file's own path and the names that it was given on the way."""
        names = [source]
        for _ in range(4):
            earlier = [before for event, before in self.named.get(names[-1], ())]
            if not earlier:
                break
            names.append(earlier[-1])
        return names


def complaints(events, root):
    """One sentence for each answer that came too early, and how many answers were looked at, by method."""
    log = Log(events)
    wrong, looked = [], {}
    for request in requests(events, root):
        asked = (request.method, request.status, request.query.partition("=")[0])
        if asked in (("PUT", 200, ""), ("POST", 200, "uploadId")):
            found = published(log, request)
        elif asked == ("DELETE", 204, ""):
            found = removed(log, request)
        else:
            continue
        looked[request.method] = looked.get(request.method, 0) + 1
        wrong += [f"{request.method} {request.path}: {what}" for what in found]
    return wrong, looked


def published(log, request):
    """What is wrong with an answer to PUT, Copy or Complete."""
    names = [(event, source) for event, source in log.named.get(request.path, ()) if request.begun < event.begun]
    if not names:
        return ["nothing got its name"]
    event, source = names[0]
    files = log.names_of(source)
    wrong = []
    changed = max((change.ended for file in files for change in log.changed.get(file, ()) if change.begun < event.begun), default=-1)
    if changed < 0:
        wrong.append("nothing was written")
    if not any(log.sync(file, changed, event.begun) for file in files):
        wrong.append("its file was not synced between its last change and its name")
    return wrong + entries(log, request, event)


def removed(log, request):
    """What is wrong with an answer to a deletion of what was there."""
    gone = [event for event in log.removed.get(request.path, ()) if request.begun < event.begun]
    return entries(log, request, gone[0], made=False) if gone else ["nothing lost its name"]


def entries(log, request, event, made=True):
    """What is wrong with the directories that got or lost a name."""
    wrong = []
    if event.ended > request.answered:
        wrong.append("it was answered before it was done")
    parent = request.path.rpartition("/")[0]
    if not log.sync(parent, event.ended, request.answered):
        wrong.append(f"{parent} was not synced after it")
    while made and parent:
        above = parent.rpartition("/")[0]
        for new in log.made.get(parent, ()):
            if new.begun < event.begun and not log.sync(above, new.ended, request.answered):
                wrong.append(f"{above} was not synced after the new folder {parent} came into it")
        parent = above
    return wrong
