"""A page of the documentation, done as its reader would: each `sh` and `python` block in order.

What differs from the reader's machine, all of it here:

- The page runs in namespaces of its own: a network with nothing but loopback, where port 9000 is free, its own /srv and
  /mnt, and process ids that all end with it. $HOME is a fresh directory, and the directory of the first block.
- `twintree`, and in README `cargo run --release --`, is the binary under test. The keys of the first start lie where an
  ordinary user finds them, `~/.local/state/twintree/credentials`, also when root runs the page.
- A block that ends in a `serve` is the reader's first terminal: it goes on while the next blocks run, from when it says
  that it listens until the next such block, or the end of the page, where it gets Ctrl-C.
- What a block exports the next ones have. In `python` blocks `'TT...'` and `'...'` stand for the keys that were made.
- `<!-- not run: REASON -->` before a block leaves it out.
"""

import dataclasses
import fcntl
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import time

BLOCK_SECONDS = 60
"""How long one block may take: seconds on a quiet machine."""
SERVES = re.compile(r"\b(twintree|release --) serve\b[^&]*$")
FENCE = re.compile(r"^(?:<!-- not run: (?P<reason>.+?) -->\n+)?```(?P<language>sh|python)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass
class Block:
    """What is to be done, and where the page says it."""

    language: str
    text: str
    line: int
    reason: str | None
    """Why it is not run."""


def blocks(text):
    """The blocks of a page that can be run."""
    return [Block(found["language"], found["text"], text.count("\n", 0, found.start("language")) + 1, found["reason"])
            for found in FENCE.finditer(text)]


class Reader:
    """Whoever sits at two terminals with the page."""

    def __init__(self, place, binary):
        self.home = place / "home"
        self.exports = place / "exports"
        self.said = place / "serve.out"
        self.serving = None
        bin = place / "bin"
        for folder in (self.home, bin, place / "srv" / "s3", place / "mnt"):
            folder.mkdir(parents=True)
        (bin / "twintree").symlink_to(binary)
        (bin / "cargo").write_text('#!/bin/sh\n[ "$1 $2 $3" = "run --release --" ] || exit 1\nshift 3\nexec twintree "$@"\n')
        (bin / "cargo").chmod(0o755)
        state = self.home / ".local" / "state" / "twintree"
        self.credentials = state / "credentials"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TWINTREE_", "XDG_"))}
        path = f"{bin}:{pathlib.Path(sys.executable).parent}:{kept['PATH']}"
        self.variables = kept | {"HOME": str(self.home), "PATH": path, "STATE_DIRECTORY": str(state)}
        self.exports.write_text("")

    def does(self, block):
        """Runs one block to its end, or as far as it serves; gives what went wrong."""
        if SERVES.search(block.text.rstrip()):
            return self.starts(block)
        script = f"set -eu\n. {self.exports}\n"
        if block.language == "python":
            script += f"exec python3 - <<'THE_BLOCK'\n{self.with_keys(block.text)}THE_BLOCK\n"
        else:
            script += f"{block.text}\nexport -p >{self.exports}\n"
        try:
            done = subprocess.run(["sh", "-c", script], cwd=self.home, env=self.variables, stdin=subprocess.DEVNULL, timeout=BLOCK_SECONDS)
        except subprocess.TimeoutExpired:
            return f"did not end within {BLOCK_SECONDS} s"
        return f"ended with {done.returncode}" if done.returncode else None

    def with_keys(self, text):
        """The block with the keys that the reader would write into it."""
        if "'TT...'" not in text:
            return text
        access, secret = [line for line in self.credentials.read_text().splitlines() if not line.startswith("#")]
        return text.replace("'TT...'", repr(access)).replace("'...'", repr(secret))

    def starts(self, block):
        """Starts what serves, and waits until it listens."""
        self.leaves()
        with self.said.open("wb") as said:
            self.serving = subprocess.Popen(["sh", "-c", f"set -eu\n. {self.exports}\n{block.text}"], cwd=self.home, env=self.variables,
                                            stdin=subprocess.DEVNULL, stdout=said, start_new_session=True)
        until = time.monotonic() + BLOCK_SECONDS
        while "\nlistening on " not in f"\n{self.said.read_text()}":
            if self.serving.poll() is not None:
                return f"ended with {self.serving.returncode}"
            if time.monotonic() > until:
                return f"does not listen within {BLOCK_SECONDS} s"
            time.sleep(0.02)
        return None

    def leaves(self):
        """Ctrl-C in the first terminal."""
        if self.serving and self.serving.poll() is None:
            os.killpg(self.serving.pid, signal.SIGINT)
            self.serving.wait(BLOCK_SECONDS)


def loopback():
    """Takes the interface `lo` of this network up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 0x41))  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING


def main(page, place, binary):
    """Does the whole page, inside namespaces that `command` made."""
    loopback()
    reader = Reader(place, binary)
    for name in ("srv", "mnt"):
        subprocess.run(["mount", "--bind", str(place / name), f"/{name}"], check=True)
    wrong = None
    for block in blocks(page.read_text()):
        if block.reason is None and wrong is None:
            print(f"\n{page.name}, line {block.line}:\n{block.text}", flush=True)
            wrong = reader.does(block)
            if wrong:
                print(f"{page.name}, line {block.line}: this block {wrong}", flush=True)
    reader.leaves()
    return 1 if wrong else 0


def command(page, place, binary):
    """The command that does a page in namespaces of its own."""
    own_user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *own_user, "--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
            sys.executable, __file__, str(page), str(place), str(binary)]


if __name__ == "__main__":
    sys.exit(main(*map(pathlib.Path, sys.argv[1:])))
