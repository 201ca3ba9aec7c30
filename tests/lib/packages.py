"""The packages of this build, made once for all who look at them; and clean roots to install them into."""

import atexit
import contextlib
import functools
import hashlib
import os
import pathlib
import re
import shutil
import stat
import subprocess
import tempfile

from . import server

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "twintree-tests"
"""Clean roots outlive the clone, as crates and wheels do: one costs a minute."""
BEFORE = "557062c91cc4"
"""The commit whose trees an upgrade takes over: the last one before there were packages."""


INCLUDE = ("systemd", "systemd-sysv", "dbus", "kmod", "curl", "procps")
"""What such a root has beside what each Debian has."""


def previous():
    """The daemon of BEFORE. Of its build only our own crates are made, half a minute: the others are those of the build under test."""
    made = CACHE / f"previous-{BEFORE}" / "twintree"
    if not made.exists():
        top = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
        home = pathlib.Path(top, "target", "previous")
        shutil.rmtree(home, ignore_errors=True)
        (home / "source").mkdir(parents=True)
        archive = subprocess.run(["git", "archive", BEFORE], cwd=top, capture_output=True)
        assert archive.returncode == 0, f"the history of this clone does not reach back to {BEFORE}: git fetch --unshallow"
        subprocess.run(["tar", "-x", "-C", home / "source"], input=archive.stdout, check=True)
        borrow(pathlib.Path(top, "target", "debug"), home / "target" / "debug")
        command = ["cargo", "build", "--locked", "--workspace", "--bin", "twintree"]
        done = subprocess.run(command, cwd=home / "source", env=os.environ | {"CARGO_TARGET_DIR": str(home / "target")}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        made.parent.mkdir(parents=True, exist_ok=True)
        fresh = made.with_name(f"twintree.{os.getpid()}")
        shutil.copy(home / "target" / "debug" / "twintree", fresh)
        fresh.rename(made)
        shutil.rmtree(home)
    return made


def borrow(debug, into):
    """Takes over what a build made of its dependencies, as further names of the same files."""
    into.mkdir(parents=True)
    for name in ("deps", "build"):
        if (debug / name).exists():
            shutil.copytree(debug / name, into / name, copy_function=os.link, symlinks=True)
    if (debug / ".fingerprint").exists():  # cargo writes into these
        shutil.copytree(debug / ".fingerprint", into / ".fingerprint")


@functools.cache
def built(version=None, binary=None):
    """The .deb and the .rpm of the binary under test, by kind, or of `binary`; `version`: as if it were that one."""
    out = pathlib.Path(tempfile.mkdtemp(prefix="twintree-packages-"))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    command = [ROOT / "packaging" / "build", "--binary", binary or server.BINARY, "--pages-by", server.BINARY, "--out", out,
               *(["--version", version] if version else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"deb": next(out.glob("*.deb")), "rpm": next(out.glob("*.rpm")), "stage": out / "stage", "out": out}


def debian():
    """A fresh Debian that a machine can boot, and nothing else; nobody changes it."""
    release = re.search(r"VERSION_CODENAME=(\w+)", pathlib.Path("/etc/os-release").read_text()).group(1)
    base = CACHE / f"{release}-booted"
    if not base.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        fresh = pathlib.Path(tempfile.mkdtemp(dir=CACHE))
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(INCLUDE)}", release, fresh]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:  # the network may have failed: once more, from where it is
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            shutil.rmtree(fresh)
            raise AssertionError(done.stdout[-2000:] + done.stderr)
        shutil.rmtree(fresh / "var" / "cache" / "apt", ignore_errors=True)
        fresh.chmod(0o755)
        fresh.rename(base)
    return base


@contextlib.contextmanager
def clean_root(folder):
    """A fresh Debian to install into, until the block ends: what is written lies over it, or in a copy where there is no overlayfs."""
    base = debian()
    parts = {name: folder / name for name in ("upper", "work", "root")}
    for part in parts.values():
        part.mkdir()
    options = f"lowerdir={base},upperdir={parts['upper']},workdir={parts['work']}"
    mounted = subprocess.run(["mount", "-t", "overlay", "twintree-packages", "-o", options, parts["root"]], capture_output=True).returncode == 0
    if not mounted:
        subprocess.run(["cp", "-a", "--reflink=auto", f"{base}/.", parts["root"]], check=True)
    try:
        yield parts["root"]
    finally:
        if mounted:  # who was killed in it may still be leaving
            server.wait_until(lambda: subprocess.run(["umount", parts["root"]], capture_output=True).returncode == 0, "nobody is in the root")
        shutil.rmtree(folder)


def chrooted(root, *words):
    """Runs a command in a root, with its own /proc that goes when it ends; the process is the command itself."""
    inside = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    return ["unshare", "--mount", "sh", "-c", inside, str(root), *map(str, words)]


def in_root(root, *words):
    """Runs a command there to its end, which must be a good one; gives what it said."""
    variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(chrooted(root, *words), capture_output=True, text=True, timeout=120, env=variables)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def picture(tree):
    """All of a tree: what each entry is, whose, its times, xattrs and bytes."""
    found = {}
    for folder, folders, files in os.walk(tree):
        for name in ["", *files, *(one for one in folders if os.path.islink(os.path.join(folder, one)))]:
            path = os.path.join(folder, name) if name else folder
            seen = os.lstat(path)
            attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
            content = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() if stat.S_ISREG(seen.st_mode) else None
            found[os.path.relpath(path, tree)] = (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_size, seen.st_mtime_ns, seen.st_ino, attributes, content)
    return found
