"""Directories as a person and the kernel see them: pictures to compare, mounts to break."""

import os
import shutil
import subprocess
import tempfile

import pytest

from . import server, tools


def picture(root, atime=True):
    """Everything that reading must not change: names, kinds, modes, owners, times, xattrs, sizes.

    Not the atime of a symbolic link: reading one cannot be told to leave it alone (O_NOATIME is for files).
    """
    found = {}
    for folder, names, files in os.walk(root, followlinks=False):
        for path in [folder, *(os.path.join(folder, name) for name in names + files)]:
            stat = os.lstat(path)
            attributes = {} if os.path.islink(path) else {name: os.getxattr(path, name, follow_symlinks=False)
                                                         for name in os.listxattr(path, follow_symlinks=False)}
            found[path] = (stat.st_ino, stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, stat.st_nlink,
                           stat.st_mtime_ns, stat.st_ctime_ns, stat.st_atime_ns if atime and not os.path.islink(path) else 0, tuple(sorted(attributes.items())))
    return found


def quieten(root):
    """Gives every directory an access time ahead, so that relatime has no reason to move it.

    On a coarse clock a directory that was just made has atime = mtime, and each reading of it moves the atime.
    """
    for folder, _, _ in os.walk(root, topdown=False):
        stat = os.stat(folder)
        os.utime(folder, ns=(stat.st_ctime_ns + 10**13, stat.st_mtime_ns))


def next_tick(path):
    """Waits until the filesystem's clock has left the tick in which a file changed last.

    There is nothing to wait for where each change has a stamp of its own (Linux 6.13: ext4, xfs, btrfs, tmpfs).
    """
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), prefix=".probe-") as probe:
        before = os.stat(probe.fileno()).st_ctime_ns
        os.fchmod(probe.fileno(), 0o644)
        if os.stat(probe.fileno()).st_ctime_ns != before:
            return
        while os.stat(probe.fileno()).st_ctime_ns <= os.stat(path).st_ctime_ns:
            os.pwrite(probe.fileno(), b"x", 0)


def grows_old(path):
    """Waits, where the filesystem's clock shows whole seconds, until it is five of them past a file's last change."""
    changed = os.stat(path).st_ctime_ns
    if changed % 10**9:
        return
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), prefix=".probe-") as probe:
        def over():
            os.fchmod(probe.fileno(), 0o644)
            return os.stat(probe.fileno()).st_ctime_ns > changed + 5 * 10**9
        server.wait_until(over, "the filesystem's clock goes on", 30)


def remove(folder):
    """Removes a tree of any depth; what is mounted directly in it is taken off first."""
    for path in folder.iterdir():
        if path.is_mount():
            subprocess.run(["umount", "-l", str(path)], check=True)
    subprocess.run(["rm", "-rf", str(folder)], check=True)


class Mount:
    """A small file system of its own, made for one test. Skips the test where mounting is not allowed."""

    def __init__(self, folder, kind, megabytes, *, inodes=None, options="", reserved=0):
        self.folder = folder
        self.image = None
        folder.mkdir(exist_ok=True)
        if os.geteuid() != 0:
            pytest.skip("mounting needs root")
        if kind.startswith("ext4"):
            tools.need("mkfs.ext4", "losetup")
            self.image = folder.with_name(folder.name + ".image")
            with open(self.image, "wb") as image:
                image.truncate(megabytes << 20)
            made = ["-b", "1024", "-I", "128"] if kind == "ext4-small-inodes" else ["-b", "4096", "-I", "256"]
            made += ["-N", str(inodes)] if inodes else []
            subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", str(reserved), *made, str(self.image)],
                           check=True, capture_output=True)
            command = ["mount", "-o", ",".join(["loop", options] if options else ["loop"]), str(self.image), str(folder)]
        elif kind in ("xfs", "btrfs"):  # neither is made smaller than some hundred megabytes; the image is sparse
            tools.need(f"mkfs.{kind}", "losetup")
            self.image = folder.with_name(folder.name + ".image")
            with open(self.image, "wb") as image:
                image.truncate(megabytes << 20)
            made = {"xfs": ["mkfs.xfs", "-q", "-f"], "btrfs": ["mkfs.btrfs", "-q", "-f", "-M"]}[kind]
            subprocess.run([*made, str(self.image)], check=True, capture_output=True)
            command = ["mount", "-o", "loop", str(self.image), str(folder)]
        else:
            limits = {"tmpfs": [f"size={megabytes}m"] + ([f"nr_inodes={inodes}"] if inodes else []), "ramfs": []}[kind]
            command = ["mount", "-t", kind, *(["-o", ",".join(limits)] if limits else []), "twintree-test", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        self.mounted = True
        shutil.rmtree(folder / "lost+found", ignore_errors=True)

    def fail(self):
        """Makes ext4 find an error on the disk; with errors=remount-ro it turns read-only under whoever uses it."""
        tools.need("findmnt")
        os.sync()
        device = subprocess.run(["findmnt", "-no", "SOURCE", str(self.folder)], check=True, capture_output=True, text=True).stdout
        with open(f"/sys/fs/ext4/{os.path.basename(device.strip())}/trigger_fs_error", "w") as trigger:
            trigger.write("a test")

    def remount(self, option):
        """Remounts with another option, such as `ro`."""
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.folder)], check=True)

    def detach(self):
        """Takes the file system away, also from under a process that uses it."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
            self.mounted = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.detach()
        if self.image:
            self.image.unlink(missing_ok=True)


class Public:
    """A directory that another user may enter: pytest's own are closed to everybody else."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="twintree-public-")
        os.chmod(self.folder, 0o755)

    def __enter__(self):
        return self.folder

    def __exit__(self, *_):
        shutil.rmtree(self.folder)
