"""A machine that systemd boots with the installed package: user-mode-linux (Debian's package of that name), a Linux kernel as a
process.

Its root is a fresh Debian over which the package is installed, its served tree a disk of its own with ext4. Inside runs
tests/booted/check, which says `ok WHAT` or `not ok WHAT: WHY` line by line.
"""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import textwrap

from . import packages

HERE = pathlib.Path(__file__).resolve().parents[1] / "booted"
TOOLS = ("linux.uml", "debootstrap", "cc", "mkfs.ext4", "openssl")
SECONDS = {"long": 400, "short": 200}
"""What a machine is given."""
CREDENTIAL = "BOOTEDKEY\nbooted-secret-key\n"
WATCHDOG = "[Service]\nWatchdogSec=3s\n"
DISK = """\
    [Unit]
    Before=twintree.service twintree.socket
    After=systemd-tmpfiles-setup.service
    [Service]
    Type=oneshot
    RemainAfterExit=yes
    ExecStart=/bin/mount -t ext4 /dev/ubda /srv
    ExecStart=/bin/systemd-tmpfiles --create twintree.conf
"""
CHECK = """\
    [Unit]
    After=disk.service
    [Service]
    Type=oneshot
    ExecStart=/check $length
    StandardOutput=file:/results
    StandardError=inherit
    ExecStopPost=/bin/systemctl --no-block --force poweroff
"""


def write(path, text, mode=0o644):
    """Writes a file and the folders on the way to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    path.chmod(mode)


@dataclasses.dataclass
class Machine:
    """What it came to: the lines of its check, what its console and its journal said."""

    lines: list
    console: str
    journal: str

    def has_ended(self):
        """The check came to its end."""
        return bool(self.lines) and self.lines[-1] == "done"

    def failed(self):
        """What does not hold."""
        return [line for line in self.lines if line.startswith("not ok ")]

    def figure(self, name):
        """A number that it measured."""
        return next(float(line.split()[2]) for line in self.lines if line.startswith(f"figure {name} "))


def prepare(root, length):
    """Installs the package into the root, as one makes an image, and lays out what the machine is to do."""
    shutil.copytree("/usr/lib/uml/modules", root / "usr/lib/modules", dirs_exist_ok=True)
    made = packages.built()["deb"]
    shutil.copy(made, root / "tmp/twintree.deb")
    if length == "long":
        shutil.copy(packages.built("99.0.0")["deb"], root / "upgrade.deb")
    # No /proc, as in every tool that makes images.
    subprocess.run(["chroot", root, "dpkg", "-i", "/tmp/twintree.deb"], check=True, capture_output=True)
    write(root / "etc/credstore/twintree.credentials", CREDENTIAL, 0o600)
    key = root / "etc/ssl/private/s3.key"
    key.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", root / "etc/ssl/s3.pem"], check=True, capture_output=True)
    key.chmod(0o600)
    units = root / "etc/systemd/system"
    write(units / "twintree.service.d/watchdog.conf", WATCHDOG)
    for name, text in (("disk", DISK), ("check", CHECK.replace("$length", length))):
        write(units / f"{name}.service", text)
        wanted = units / "multi-user.target.wants" / f"{name}.service"
        wanted.parent.mkdir(exist_ok=True)
        wanted.symlink_to(f"../{name}.service")
    shutil.copy(HERE / "check", root / "check")


def boot(root, folder, seconds):
    """Runs the machine to its end; gives what it said on its console."""
    disk, shim, log = folder / "disk", folder / "registers.so", folder / "console"
    with open(disk, "wb") as image:
        image.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, HERE / "registers.c", "-ldl"], check=True)
    command = ["linux.uml", "mem=600M", "root=/dev/root", "rootfstype=hostfs", f"rootflags={root}", "rw", f"ubda={disk}",
               "init=/lib/systemd/systemd", "systemd.unit=multi-user.target", "con=null", "con0=fd:0,fd:1"]
    with open(log, "wb") as out:
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=folder,
                                   env={"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder), "LD_PRELOAD": str(shim)},
                                   start_new_session=True)
        try:
            machine.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(machine.pid, 9)
            machine.wait()
    return log.read_text(errors="replace")


def run(folder, length):
    """Boots one in an empty folder, which goes, and sees what the units promise: all of it (`long`), or what they are for (`short`)."""
    with packages.clean_root(folder) as root:
        prepare(root, length)
        console = boot(root, folder, SECONDS[length])
        said = {name: (root / name).read_text(errors="replace") if (root / name).exists() else "" for name in ("results", "results.log")}
    return Machine(said["results"].splitlines(), console, said["results.log"])
