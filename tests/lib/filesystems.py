"""The filesystems that the behavioural suites run on: sparse loop images and memory, each mounted for one run.

All of it happens in a mount namespace of its own, and an image's name is gone as soon as the image is mounted: whatever
ends the run, also SIGKILL, the kernel unmounts, detaches and frees when the last process of it has gone.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

SIZE = "16G"
"""An image's length; only what the tests write takes room."""

SUITES = ["store", "checksums", "direct_edits", "expectations", "hostile_clients", "hostile_tree", "raw", "reference_flow", "surroundings"]
"""What runs on each of them; `store` are the Rust tests of the store, which find the filesystem by TMPDIR."""

HERE_VARIABLE = "TWINTREE_TEST_FS"
INNER_VARIABLE = "TWINTREE_TEST_INNER"
NAMESPACE_VARIABLE = "TWINTREE_TEST_NAMESPACE"


@dataclasses.dataclass(frozen=True)
class Filesystem:
    """How one is made, and what it lacks: words that tests name in `@pytest.mark.needs(...)`."""

    kind: str
    make: tuple = ()
    lacks: frozenset = frozenset()
    inner: str = ""


KNOWN = {
    "ext4": Filesystem("ext4", ("mkfs.ext4", "-q", "-F")),
    "ext4-128": Filesystem("ext4", ("mkfs.ext4", "-q", "-F", "-I", "128", "-b", "1024"), frozenset({"long links", "large xattrs"})),
    "xfs": Filesystem("xfs", ("mkfs.xfs", "-q", "-f"), frozenset({"long links"})),
    "btrfs": Filesystem("btrfs", ("mkfs.btrfs", "-q", "-f")),
    "tmpfs": Filesystem("tmpfs"),
    # truncate(2) by path moves none of its times: what cuts a file there and grows it again leaves no trace.
    "ramfs": Filesystem("ramfs", (), frozenset({"xattrs", "acls", "a limit", "times of truncate"})),
    "nested": Filesystem("ext4", ("mkfs.ext4", "-q", "-F"), frozenset({"one filesystem"}), inner="xfs"),
}


STORE_NEEDS = {
    # They read or set the xattrs of records by hand; there records lie in .twintree/records/i/, by inode.
    "xattrs": [
        *("inspect::tests::" + name for name in (
            "a_directory_is_told_by_its_mark", "a_metadata_half_that_is_gone_or_broken_is_told",
            "a_multipart_object_is_told_with_its_parts_and_its_upload", "an_object_is_told_with_its_dates_checksums_and_metadata",
            "an_unsynced_object_of_this_boot_says_so", "each_verdict_says_what_s3_shows_and_why",
            "parts_that_did_not_fit_are_told_where_they_lie", "the_etag_that_a_sealed_record_replaced_is_told")),
        "orphans::tests::records_go_when_no_file_names_them_any_more", "orphans::tests::records_stay_while_a_later_version_may_name_them",
        "sealer::tests::record_of_a_later_version_is_left_alone", "sealer::tests::unsynced_record_of_another_boot_is_read_and_trusted_again",
        "changes::what_pages_knew_of_a_file_is_forgotten_when_the_file_changes", "etags::etag_survives_a_restart_and_a_copy_with_xattrs",
        "etags::relaxed_objects_are_valid_in_this_boot_and_say_that_they_are_unsynced", "etags::what_is_put_is_there_with_its_md5_and_nothing_else",
        "files::put_over_a_file_keeps_owner_mode_and_foreign_xattrs", "records::record_of_a_later_version_is_never_destroyed_by_tagging",
        "records::unknown_meta_fields_survive_tagging"],
    "a limit": ["room::tests::more_than_the_disk_has_is_refused_at_once"],
}
"""The Rust tests of the store that cannot be where a filesystem lacks something, by what that is."""


def chosen(words):
    """The names in `ext4,xfs`, or all of them."""
    names = list(KNOWN) if words == "all" else words.split(",")
    for name in names:
        if name not in KNOWN:
            sys.exit(f"no filesystem {name!r}; there are: all, {', '.join(KNOWN)}")
    return names


def enter_own_namespace():
    """Starts this command once more in a mount namespace of its own, unless it is in one."""
    if os.environ.get(NAMESPACE_VARIABLE):
        return
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        sys.exit("--fs mounts filesystems: it needs root, and unshare (Debian: apt-get install util-linux)")
    os.environ[NAMESPACE_VARIABLE] = "1"
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])


@contextlib.contextmanager
def mounted(name):
    """Mounts one; gives the environment variables under which tests run on it, TMPDIR among them."""
    filesystem = KNOWN[name]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: what is mounted is taken off again
    with contextlib.ExitStack() as stack:
        scratch = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="twintree-")))
        scratch.chmod(0o755)  # some tests start daemons as another user
        place = _mount(stack, filesystem, scratch / "fs")
        variables = {HERE_VARIABLE: name, "TMPDIR": str(place)}
        if filesystem.inner:
            variables[INNER_VARIABLE] = str(_mount(stack, KNOWN[filesystem.inner], scratch / "inner"))
        yield variables


def _mount(stack, filesystem, place):
    place.mkdir()
    if filesystem.make:
        image = place.with_suffix(".image")
        with open(image, "wb") as file:
            file.truncate(int(SIZE.removesuffix("G")) << 30)
        _do(*filesystem.make, image)
        _do("mount", "-t", filesystem.kind, "-o", "loop,discard", image, place)
        image.unlink()  # the loop device holds it, and nothing else does
    else:
        _do("mount", "-t", filesystem.kind, *(["-o", f"size={SIZE}"] if filesystem.kind == "tmpfs" else []), "twintree-test", place)
    stack.callback(_do, "umount", "-l", place)
    shutil.rmtree(place / "lost+found", ignore_errors=True)
    return place


def _do(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}: {done.stderr.strip()}")


def left_out_of_store(name):
    """Options that leave out the Rust tests which need what this filesystem lacks."""
    return [word for lack, tests in STORE_NEEDS.items() if lack in KNOWN[name].lacks for test in tests for word in ("--skip", test)]


def here():
    """The filesystem that the tests of this process run on; one that lacks nothing where nobody said."""
    return KNOWN.get(os.environ.get(HERE_VARIABLE, ""), KNOWN["ext4"])


def lacks(what):
    """Does the filesystem that the tests run on lack this?"""
    return what in here().lacks


@contextlib.contextmanager
def second_one_at(folder):
    """Where the run is of nested filesystems, makes `folder` a place of the second one; else does nothing."""
    inner = os.environ.get(INNER_VARIABLE)
    if not inner:
        yield
        return
    source = tempfile.mkdtemp(dir=inner)
    os.chmod(source, 0o755)
    folder.mkdir()
    _do("mount", "--bind", source, folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)  # a test may have moved it
