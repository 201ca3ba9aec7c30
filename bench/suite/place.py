"""Where the measuring happens: a filesystem with a journal, and the machine's description.

An ext4 without a journal answers fsync without having done anything and searches its recently deleted inodes
at every create, so numbers from it say little. As root we therefore make an ext4 of our own in a file.
"""

import contextlib
import mmap
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile

IMAGE_BYTES = 24 << 30
"""Sparse: only what is written takes room, about 6 GiB."""
BYTES_FOR_INODE = 8192
"""One inode for so many bytes: there must be room for the trees of a million files."""
WARM_MIB, SPARE_MIB = 4 << 10, 2 << 10
"""Memory that is touched before the run, and memory that is left alone."""


@contextlib.contextmanager
def working(parent, loop):
    """A folder for everything, gone afterwards; with `loop`, on a fresh ext4 in a file where that is possible."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="twintree-bench-", dir=parent))
    try:
        if loop and os.geteuid() == 0 and shutil.which("mkfs.ext4") and _make_image(folder):
            mount = folder / "mount"
            try:
                yield mount
            finally:
                subprocess.run(["umount", str(mount)], check=False) # check below: nothing may be deleted through it
                if os.path.ismount(mount):
                    subprocess.run(["umount", "-l", str(mount)], check=True)
        else:
            (folder / "mount").mkdir(exist_ok=True)
            yield folder / "mount"
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def other_kind(parent, mount, kind, size=2 << 30):
    """Another filesystem with a journal, in a file below `parent`, mounted on the new folder `mount`; gives whether it can be had."""
    if os.geteuid() != 0 or not shutil.which(f"mkfs.{kind}"):
        yield False
        return
    with tempfile.TemporaryDirectory(prefix="twintree-bench-", dir=parent) as folder:
        image = pathlib.Path(folder) / "image"
        with open(image, "wb") as file:
            file.truncate(size)
        mount.mkdir()
        steps = ([f"mkfs.{kind}", "-q", str(image)], ["mount", "-o", "loop", str(image), str(mount)])
        failed = next((done for done in (subprocess.run(step, capture_output=True, text=True) for step in steps) if done.returncode != 0), None)
        if failed:
            print(f"{kind} is left out: {failed.stderr.strip()}", flush=True)
            mount.rmdir()
            yield False
            return
        try:
            yield True
        finally:
            subprocess.run(["umount", str(mount)], check=True)


def _make_image(folder):
    image, mount = folder / "image", folder / "mount"
    with open(image, "wb") as file:
        file.truncate(IMAGE_BYTES)
    mount.mkdir()
    made = subprocess.run(["mkfs.ext4", "-q", "-i", str(BYTES_FOR_INODE), "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)], capture_output=True, text=True)
    if made.returncode == 0:
        # Direct, so that the page cache holds everything once and not twice.
        made = subprocess.run(["losetup", "--find", "--show", "--direct-io=on", str(image)], capture_output=True, text=True)
    if made.returncode == 0:
        device = made.stdout.strip()
        made = subprocess.run(["mount", "-o", "nodiscard", device, str(mount)], capture_output=True, text=True)
        # In use, it is only marked here, and goes when it is unmounted.
        subprocess.run(["losetup", "--detach", device], check=True)
    if made.returncode == 0:
        return True
    print(f"no filesystem of our own ({made.stderr.strip()}): measuring on {folder}", flush=True)
    image.unlink()
    return False


def warm_memory():
    """Touches memory and gives it back. In a virtual machine the first touch of a page is paid to the hypervisor by
    whoever happens to do it: up to six times the cost of a copied file, for one server and not for another."""
    free = next(int(line.split()[1]) >> 10 for line in pathlib.Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemFree"))
    with mmap.mmap(-1, min(WARM_MIB, max(free - SPARE_MIB, 1)) << 20) as memory:
        for at in range(0, len(memory), mmap.PAGESIZE):
            memory[at] = 1


def flush(folder):
    """Writes back what earlier cases left dirty on the filesystem of `folder`."""
    subprocess.run(["sync", "-f", str(folder)], check=True)


def filesystem(folder):
    """One sentence about the filesystem below `folder`."""
    best = ("", "", "")
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        device, mount, kind, options = line.split()[:4]
        inside = os.path.realpath(folder) == mount or os.path.realpath(folder).startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best[0]):
            best = (mount, kind, options, device)
    mount, kind, options, device = best
    name = os.path.basename(device)
    journal = ""
    if kind == "ext4":
        journals = os.listdir("/proc/fs/jbd2") if os.path.isdir("/proc/fs/jbd2") else []
        journal = ", with a journal" if any(entry.rsplit("-", 1)[0] == name for entry in journals) else ", WITHOUT a journal: its fsync means little"
    where = " in a file (loop device)" if name.startswith("loop") else ""
    return f"{kind}{where}{journal}; {options}"


def _first(command):
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20)
        return (lines.stdout + lines.stderr).strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "not there"


def machine(folder, root, named):
    """The machine's description, as rows of (what, value); `named`: the binary was not built from this checkout by us."""
    cpu = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        cpu.setdefault(name.strip(), value.strip())
    flags = cpu.get("flags", "").split()
    known = [flag for flag in ("sha_ni", "avx2", "avx512f", "avx512vl") if flag in flags]
    model = f"{cpu.get('model name', platform.machine())} (family {cpu.get('cpu family')}, model {cpu.get('model')}), {', '.join(known) or 'no SIMD that matters'}"
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) >> 20
    commit = _first(["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"])
    return [
        ("processor", model + (", virtual" if "hypervisor" in flags else "")),
        ("cores", str(os.cpu_count())),
        ("memory", f"{memory} GiB"),
        ("kernel", f"Linux {platform.release()}"),
        ("filesystem", filesystem(folder)),
        ("network", "loopback"),
        ("twintree", f"{'a binary that was named, in a checkout of ' if named else ''}commit {commit}, {_first(['rustc', '--version'])}, release build, --log warn"),
    ]
