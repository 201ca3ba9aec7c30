"""Where a FUSE mount stands, and taking one off."""

import subprocess


def is_mounted(path):
    """Whether a FUSE mount, alive or dead, stands at this path."""
    with open("/proc/self/mounts") as table:
        return any(line.split(" ")[1] == str(path) and line.split(" ")[2].startswith("fuse") for line in table)


def unmount(path):
    """Takes a mount off that its daemon left; a clean end leaves none."""
    if is_mounted(path):
        subprocess.run(["umount", "-l", str(path)], check=True)
