"""The commands that are no daemon: run to their end, and what they print as data."""

import csv
import io
import json
import os
import subprocess

from . import server

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
COLUMNS = ["key", "size", "mtime", "etag", "crc64nvme", "state"]
STATES = {"valid", "stale", "unverified", "none"}


def environment():
    """The process environment without any setting of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TWINTREE_")}


def run(*words, wrapper=(), binary=None, seconds=120):
    """Runs the binary to its end; what it prints is bytes."""
    command = [*wrapper, binary or server.BINARY, *(word if isinstance(word, bytes) else str(word) for word in words)]
    return subprocess.run(command, capture_output=True, timeout=seconds, env=environment(), stdin=subprocess.DEVNULL)


def start(*words):
    """Starts the binary; the caller ends it."""
    return subprocess.Popen([server.BINARY, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
                            stdin=subprocess.DEVNULL)


def reads(pid, path):
    """Has the process the file open, and holds its lease?"""
    with open("/proc/locks") as locks:
        leased = any("LEASE" in line and f" {pid} " in line for line in locks)
    if not leased:
        return False
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        try:
            if os.readlink(f"{folder}/{name}") == str(path):
                return True
        except FileNotFoundError:
            pass
    return False


def rows_of_csv(printed):
    """The rows of an inventory in CSV, as dicts; the header must be the known one."""
    header, *rows = csv.reader(io.StringIO(printed.decode(), newline=""), strict=True)
    assert header == COLUMNS, header
    assert all(len(row) == len(COLUMNS) for row in rows)
    return [dict(zip(COLUMNS, row)) for row in rows]


def rows_of_jsonl(printed):
    """The rows of an inventory in JSON lines, with their values as CSV has them."""
    found = []
    for line in printed.decode().split("\n")[:-1]:
        row = json.loads(line)
        assert list(row) == COLUMNS, row
        found.append({name: "" if value is None else str(value) for name, value in row.items()})
    return found


def grows_old(path):
    """Makes the record of an object look as if it was made a minute before the file was last touched: a chmod, much later."""
    record = bytearray(os.getxattr(path, "user.twintree"))
    seal = int.from_bytes(record[48:56], "little") - 60 * 10**9
    record[48:56] = seal.to_bytes(8, "little")
    os.setxattr(path, "user.twintree", bytes(record))


def inventory(root, part, *flags, code=0):
    """The rows of an inventory that ends with `code`."""
    done = run("inventory", root, part, *flags)
    assert done.returncode == code, done
    return rows_of_csv(done.stdout)


def seal(root, *words, code=0, **how):
    """Seals, and gives the summary's counts by what they count; `text` is all of it and `said` standard error."""
    done = run("seal", root, *words, **how)
    assert done.returncode == code, done
    return summary(done.stdout, done.stderr)


def summary(printed, said):
    """What a summary says, as numbers."""
    text = printed.decode()
    found = {"text": text, "said": said.decode()}
    for line in text.splitlines():
        for name in ("sealed", "already sealed", "changed while reading", "skipped", "failed", "read", "would seal"):
            if line.startswith(name + "  ") or line.startswith(name + " ") and name == "changed while reading":
                found[name] = int(line[len(name):].split()[0].rstrip(":").replace(",", "").split(".")[0])
    return found
