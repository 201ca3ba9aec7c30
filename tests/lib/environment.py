"""The Python environment of the tests, and what they need of the system."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

TESTS = pathlib.Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
WANTED = [
    # command, Debian package, what cannot run without it
    ("openssl", "openssl", "every test over TLS"),
    ("curl", "curl", "presigned URLs and HTTP/2"),
    ("setfacl", "acl", "the tests of ACLs"),
    ("rsync", "rsync", "the tests of rsync -aX"),
    ("nginx", "nginx-light", "the test behind a proxy"),
    ("mkfs.btrfs", "btrfs-progs", "the test of quotas, tests/run --fs btrfs"),
    ("strace", "strace", "the tests of durability"),
    ("losetup", "mount", "the power cuts, and every test that mounts a filesystem"),
    ("findmnt", "util-linux", "the test of a disk that turns read-only"),
    ("setpriv", "util-linux", "the tests of a daemon without privileges"),
    ("unshare", "util-linux", "the tests of a machine without /dev/fuse"),
    ("mkfs.ext4", "e2fsprogs", "the power cuts and the tests of full disks on ext4"),
    ("mkfs.xfs", "xfsprogs", "the power cuts and the tests of full disks on xfs"),
    ("autoreconf", "autoconf", "pjdfstest"),
    ("automake", "automake", "pjdfstest"),
    ("fusermount3", "fuse3", "the mount of an ordinary user"),
    ("debootstrap", "debootstrap", "the packages in a fresh Debian"),
    ("linux.uml", "user-mode-linux", "the units in a booted machine"),
    ("cc", "build-essential", "the units in a booted machine, on processors with AMX"),
    ("rpm", "rpm", "the .rpm's installation"),
    ("lintian", "lintian", "what Debian says of the .deb"),
    ("rpmlint", "rpmlint", "what is said of the .rpm"),
    ("systemd-analyze", "systemd", "the units' exposure"),
    ("chromium", "chromium", "the console in a browser"),
    ("chromedriver", "chromium-driver", "the console in a browser"),
    ("patch", "patch", "tests/mutants/run"),
    ("git", "git", "tests/mutants/run, and the floors of the commit before"),
    ("go", "golang, 1.26 or newer", "minio-go and the Go SDK"),
]


def home():
    """Where the virtual environment lies."""
    return pathlib.Path(os.environ.get("TWINTREE_VENV") or ROOT / ".venv")


def python():
    """The environment's interpreter."""
    return home() / "bin" / "python"


def old_boto3():
    """A folder with the older boto3, for PYTHONPATH."""
    return home() / "boto3-old"


def variables():
    """The process environment for tests: the virtual environment first, no AWS settings of the person who runs it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TWINTREE_ACCESS", "TWINTREE_SECRET"))}
    kept["PATH"] = f"{home() / 'bin'}:{kept.get('PATH', '')}"
    return kept


def prepare():
    """Makes the virtual environment, or brings it up to date when a requirements file changed."""
    files = [TESTS / "requirements.txt", TESTS / "requirements-boto3-old.txt", TESTS / "requirements-alone.txt"]
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    mark = home() / "twintree-requirements"
    if shutil.which("go"):
        subprocess.run([str(TESTS / "tools"), "clients"], check=True)
    if mark.exists() and mark.read_text() == wanted:
        return
    print(f"making the Python environment in {home()}", flush=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(home())], check=True)
    except subprocess.CalledProcessError:
        sys.exit("python3 -m venv does not work here; on Debian: apt-get install python3-venv")
    pip = [str(python()), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "-r", str(files[0])], check=True)
    subprocess.run([*pip, "--no-deps", "-r", str(files[2])], check=True)
    subprocess.run([*pip, "--upgrade", "--target", str(old_boto3()), "-r", str(files[1])], check=True)
    mark.write_text(wanted)


def clients():
    """The Go clients' program."""
    return ROOT / ".tools" / "bin" / "clients"


def missing():
    """What the system lacks, as (command, package, purpose)."""
    return [row for row in WANTED if shutil.which(row[0], path=variables()["PATH"]) is None]


def say_what_is_missing():
    """One line for each command that the system lacks; the tests that need it are skipped, and a skip fails in CI."""
    for command, package, purpose in missing():
        print(f"missing: {command} (Debian: apt-get install {package}); without it these are skipped: {purpose}", flush=True)
