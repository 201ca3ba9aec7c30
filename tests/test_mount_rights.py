"""What each user may in the mount: ACLs, supplementary groups, set-id bits, reserves and quotas.

The kernel says what is right: the same calls by the same user in the directory itself, beside those in the mount.
"""

import errno
import os
import stat
import subprocess
import sys

import pytest
from lib import faces, tools, tree as trees

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="a mount of this suite needs root and /dev/fuse")

USER, GROUP, STRANGER = 4711, 4712, 4713
PRELUDE = """import errno, mmap, os, sys
def word(call, *words):
    try:
        call(*words)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "fine"
"""


@pytest.fixture(params=["plain", "passthrough"])
def both(tmp_path, request):
    """A mount for everybody."""
    everybody_reaches(tmp_path)
    with faces.Faces(tmp_path, "--mount-allow-other", "--mount-mode", request.param) as both:
        yield both


def everybody_reaches(path):
    """Opens the way to a folder of this test."""
    for folder in (path, *path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)


def run(*words, groups=(), user=USER, cwd=None):
    """Runs a command as a user; gives what it prints."""
    who = [] if user == 0 else ["setpriv", f"--reuid={user}", f"--regid={user}",
                                f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"]
    done = subprocess.run([*who, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Twins:
    """Two folders alike: `native` is used in the directory itself, `mounted` in the mount."""

    def __init__(self, both):
        self.places = {"native": both.on("disk", "native"), "mounted": both.on("mount", "mounted")}
        self.below = {"native": both.on("disk", "native"), "mounted": both.on("disk", "mounted")}
        for folder in self.below.values():
            folder.mkdir(mode=0o755)
            folder.chmod(0o755)

    def prepare(self, act):
        """Does the same to both, straight in the directory."""
        for folder in self.below.values():
            act(folder)

    def say(self, program, **who):
        """What the same lines print in both, run by the same user: once, since it must be the same."""
        said = {name: run(sys.executable, "-c", PRELUDE + program, cwd=folder, **who) for name, folder in self.places.items()}
        assert said["mounted"] == said["native"]
        return said["native"]

    def run(self, *words, **who):
        """The same command in both."""
        for folder in self.places.values():
            run(*words, cwd=folder, **who)

    def same(self, look):
        """What both have come to."""
        found = {name: look(folder) for name, folder in self.below.items()}
        assert found["mounted"] == found["native"]
        return found["native"]


@pytest.fixture
def twins(both):
    return Twins(both)


def set_acl(words, path, *flags):
    tools.need("setfacl")
    subprocess.run(["setfacl", *flags, "-m", words, str(path)], check=True)


def acl_of(path):
    return subprocess.run(["getfacl", "-nEc", str(path)], check=True, capture_output=True, text=True).stdout


# --- ACLs ---

ACLS = {
    "no ACL": (0o640, 0, None, "EACCES EACCES"),
    "a user by name": (0o600, 0, f"u:{USER}:rw", "fine fine"),
    "a user by name behind a mask": (0o600, 0, f"u:{USER}:rw,m::r", "fine EACCES"),
    "a user by name who may not though all others may": (0o644, 0, f"u:{USER}:---", "EACCES EACCES"),
    "the owning group that may not, behind a mask that shows as its own": (0o600, USER, f"g::---,u:{STRANGER}:rw,m::rw", "EACCES EACCES"),
    "a group by name": (0o600, 0, f"g:{GROUP}:r", "fine EACCES"),
    "a group by name that may not": (0o644, 0, f"g:{GROUP}:---", "EACCES EACCES"),
}


def test_acls_let_in_and_keep_out_as_below(twins):
    def prepare(folder):
        for name, (mode, group, acl, _) in ACLS.items():
            (folder / name).write_bytes(b"x")
            (folder / name).chmod(mode)
            os.chown(folder / name, 0, group)
            if acl:
                set_acl(acl, folder / name)

    twins.prepare(prepare)
    said = twins.say('for name in sorted(os.listdir(".")): print(word(open, name), word(open, name, "r+"))', groups=(GROUP,))
    assert dict(zip(sorted(ACLS), said.splitlines())) == {name: words for name, (*_, words) in ACLS.items()}


def test_modes_count_where_the_filesystem_has_no_acls(tmp_path):
    everybody_reaches(tmp_path)
    with trees.Mount(tmp_path / "tree", "ramfs", 0), faces.Faces(tmp_path, "--mount-allow-other") as both:
        twins = Twins(both)

        def prepare(folder):
            for name, mode in (("for all", 0o664), ("for the group", 0o660), ("for root", 0o600)):
                (folder / name).write_bytes(b"x")
                (folder / name).chmod(mode)
                os.chown(folder / name, 0, GROUP)

        twins.prepare(prepare)
        said = twins.say('print(*[word(open, name) for name in ("for all", "for the group", "for root")])')
        assert said == "fine EACCES EACCES"
        said = twins.say('print(*[word(open, name, "r+") for name in ("for all", "for the group", "for root")])', groups=(GROUP,))
        assert said == "fine fine EACCES"


def test_an_acl_that_is_set_in_the_mount_counts_at_once_and_so_does_its_end(both):
    path = both.on("mount", "file")
    path.write_bytes(b"x")
    path.chmod(0o600)
    for words, said in ((("-m", f"u:{USER}:r"), "fine"), (("-b",), "EACCES"), (("-m", f"u:{USER}:r"), "fine"), (("-m", "m::---"), "EACCES")):
        tools.need("setfacl")
        subprocess.run(["setfacl", *words, str(path)], check=True)
        assert run(sys.executable, "-c", PRELUDE + "print(word(open, sys.argv[1]))", path) == said, words
        assert acl_of(path) == acl_of(both.on("disk", "file"))


def test_what_is_made_in_a_folder_with_a_default_acl_is_as_below(twins):
    tools.need("setfacl")
    twins.prepare(lambda folder: os.chown(folder, USER, USER))
    twins.run("setfacl", "-m", f"d:u:{STRANGER}:rwx,d:g::r-x,d:o::---", ".")
    twins.say("""os.umask(0o077)
os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o666))
os.mkdir("folder", 0o777)
os.mkfifo("fifo", 0o666)
open("folder/below", "w").close()
os.chmod("file", 0o620)
""")
    for name in (".", "file", "folder", "fifo", "folder/below"):
        said = twins.same(lambda folder, name=name: acl_of(folder / name))
        assert f"user:{STRANGER}:" in said, name


@pytest.mark.parametrize("who", [{"user": 0}, {"groups": (GROUP,)}, {"groups": ()}], ids=["root", "of the group", "not of the group"])
def test_an_acl_keeps_the_set_group_id_bit_of_a_shared_folder_where_it_would_below(twins, who):
    tools.need("setfacl")

    def prepare(folder):
        (folder / "shared").mkdir()
        os.chown(folder / "shared", USER, GROUP)
        (folder / "shared").chmod(0o2775)

    twins.prepare(prepare)
    twins.run("touch", "shared", user=0)  # so that whatever thread is asked has been asked before
    twins.run("setfacl", "-m", f"u:{STRANGER}:rwx", "shared", **who)
    mode = twins.same(lambda folder: stat.S_IMODE(os.stat(folder / "shared").st_mode))
    assert bool(mode & stat.S_ISGID) == (who != {"groups": ()})


# --- groups and set-id bits ---


@pytest.mark.parametrize("groups", [(GROUP,), ()], ids=["of the group", "not of the group"])
def test_supplementary_groups_open_what_they_open_below(twins, groups):
    def prepare(folder):
        for name, mode in (("shared", 0o770), ("inherits", 0o2770)):
            (folder / name).mkdir()
            os.chown(folder / name, 0, GROUP)
            (folder / name).chmod(mode)

    twins.prepare(prepare)
    said = twins.say("""os.umask(0o007)
for place in ("shared", "inherits"):
    print(word(os.listdir, place), word(lambda: open(place + "/file", "w").close()), word(os.mkdir, place + "/folder"), word(os.symlink, "x", place + "/link"))
""", groups=groups)
    assert set(said.split()) == {"fine" if groups else "EACCES"}

    def look(folder):
        return {str(path.relative_to(folder)): (path.lstat().st_mode, path.lstat().st_uid, path.lstat().st_gid) for path in folder.rglob("*")}
    assert len(twins.same(look)) == (8 if groups else 2)


CHANGES = {
    "write": 'open("file", "r+b", buffering=0).write(b"y")',
    "append": 'open("file", "ab", buffering=0).write(b"y")',
    "truncate": 'os.truncate("file", 1)',
    "ftruncate": 'open("file", "r+b").truncate(1)',
    "open to truncate": 'open("file", "wb").close()',
    "fallocate": 'os.posix_fallocate(os.open("file", os.O_RDWR), 0, 9000)',
    "copy_file_range": 'os.copy_file_range(os.open("source", os.O_RDONLY), os.open("file", os.O_RDWR), 3)',
}
CAPABILITY = bytes.fromhex("00000002" + "00200000" + "00000000" * 3)
"""vfs_cap_data of capabilities(7), version 2: cap_net_raw, permitted."""


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_user_changes_loses_its_set_id_bits_and_its_capabilities(twins, change):
    def prepare(folder):
        (folder / "source").write_bytes(b"of the source")
        (folder / "file").write_bytes(b"a program")
        (folder / "file").chmod(0o6777)
        os.setxattr(folder / "file", "security.capability", CAPABILITY)

    twins.prepare(prepare)
    twins.say(CHANGES[change])
    mode, names = twins.same(lambda folder: (stat.S_IMODE(os.stat(folder / "file").st_mode), os.listxattr(folder / "file")))
    assert mode == 0o777 and "security.capability" not in names


# --- room ---


def filled(path, most):
    """Bytes that a user could write into a file before something said no, and what it said."""
    said = run(sys.executable, "-c", """import errno, os, sys
file, written = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 0
try:
    while written < int(sys.argv[2]):
        written += os.write(file, os.urandom(1 << 18))
        os.fsync(file)
except OSError as error:
    print(written, errno.errorcode[error.errno])
else:
    print(written, "fine")
""", path, most)
    written, word = said.split()
    return int(written), word


@pytest.mark.parametrize("mode", ["plain", "passthrough"])
def test_nobody_takes_in_the_mount_what_the_disk_keeps_for_another(tmp_path, mode):
    """Blocks that are kept for a user (ext4's resuid), and quotas as well, hold but for CAP_SYS_RESOURCE, which the daemon has."""
    everybody_reaches(tmp_path)
    with trees.Mount(tmp_path / "tree", "ext4", 64, options=f"resuid={STRANGER}", reserved=50), \
            faces.Faces(tmp_path, "--mount-allow-other", "--mount-mode", mode) as both:
        for face in ("disk", "mount"):
            both.on("disk", face).mkdir(mode=0o777)
            both.on("disk", face).chmod(0o777)
        written, word = filled(both.on("disk", "disk/file"), 60 << 20)
        assert word == "ENOSPC" and 16 << 20 < written < 40 << 20, "the reserve holds in the directory itself"
        os.unlink(both.on("disk", "disk/file"))
        in_the_mount, word = filled(both.on("mount", "mount/file"), 60 << 20)
        assert word == "ENOSPC" and abs(in_the_mount - written) < 1 << 20


@pytest.mark.parametrize("mode", ["plain", "passthrough"])
def test_a_quota_that_is_used_up_is_said_as_it_is(tmp_path, mode):
    """btrfs's quota groups: of the quotas that there are, the ones that every kernel with btrfs has."""
    with trees.Mount(tmp_path / "tree", "btrfs", 256), faces.Faces(tmp_path, "--mount-mode", mode) as both:
        for words in (["quota", "enable"], ["qgroup", "limit", "8M"]):
            subprocess.run(["btrfs", *words, str(both.disk)], check=True, capture_output=True)
        path = both.on("mount", "file")
        with pytest.raises(OSError) as caught, open(path, "wb", buffering=0) as file:
            for _ in range(64):
                file.write(os.urandom(1 << 18))
                os.fsync(file.fileno())
        assert caught.value.errno == errno.EDQUOT
        os.unlink(path)
        assert os.listdir(path.parent) == []
