"""pjdfstest, unmodified, in the mount: what POSIX asks of a file system, file by file.

Needs root, and the suite beside this checkout (../shared/pjdfstest, or $TWINTREE_PJDFSTEST). TWINTREE_PJDFSTEST_MODES
names the modes of the mount: passthrough in CI, plain as well in tests/full.
"""

import os
import pathlib
import re
import shutil
import subprocess

import pytest
from lib import faces, tables

HERE = pathlib.Path(__file__).resolve().parent
SUITE = pathlib.Path(os.environ.get("TWINTREE_PJDFSTEST", HERE.parent.parent / "shared" / "pjdfstest"))
BUILT = HERE.parent / "target" / "pjdfstest"
MODES = os.environ.get("TWINTREE_PJDFSTEST_MODES", "passthrough").split()
FILES = sorted(str(path.relative_to(SUITE / "tests")) for path in SUITE.glob("tests/**/*.t"))
CASES = 8798
"""So many a mode: less means that something was not run."""
SECONDS = 170
COUNTS = {mode: {"files": 0, "cases": 0, "failed": 0} for mode in MODES}


@pytest.fixture(scope="session")
def suite():
    """A copy of the suite, built; the original stays as it is."""
    if not (BUILT / "pjdfstest").exists():
        shutil.rmtree(BUILT, ignore_errors=True)
        shutil.copytree(SUITE, BUILT, symlinks=True)
        for words in (["autoreconf", "-ifs"], ["./configure", "-q"], ["make", "-s", "pjdfstest"]):
            done = subprocess.run(words, cwd=BUILT, capture_output=True, text=True)
            assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
    return BUILT


@pytest.fixture(scope="session", params=MODES)
def place(request, tmp_path_factory):
    """A folder in a mount that allows what the suite needs: all users, set-uid files, device nodes."""
    folder = tmp_path_factory.mktemp("pjdfstest")
    folder.chmod(0o755)
    flags = ("--mount-mode", request.param, "--mount-allow-other")
    with faces.Faces(folder, *flags, environment={"TWINTREE_MOUNT_OPTIONS": "suid,dev"}) as both:
        inside = both.on("mount", "work")
        inside.mkdir(mode=0o755)
        yield request.param, inside


def in_suite(name):
    """Marks a test that needs the suite and root."""
    lacking = "root" if os.geteuid() else f"pjdfstest at {SUITE}"
    return pytest.mark.skipif(bool(os.geteuid()) or not FILES, reason=f"needs {lacking}")(name)


@in_suite
@pytest.mark.parametrize("file", FILES)
def test_file(suite, place, file):
    mode, inside = place
    done = subprocess.run(["prove", "-v", suite / "tests" / file], cwd=inside, capture_output=True, text=True, timeout=SECONDS)
    answers = re.findall(r"^(ok|not ok) \d+(.*)$", done.stdout, re.M)
    failed = [rest for answer, rest in answers if answer == "not ok" and "# TODO" not in rest]
    COUNTS[mode]["files"] += 1
    COUNTS[mode]["cases"] += len(answers)
    COUNTS[mode]["failed"] += len(failed)
    assert not failed and done.returncode == 0, "\n".join([*failed, done.stdout[-1500:], done.stderr[-1500:]])


@in_suite
def test_all_of_it_was_run():
    tables.say("pjdfstest", [("mode", "files", "cases", "failed"),
                             *((mode, *counts.values()) for mode, counts in COUNTS.items())])
    for mode, counts in COUNTS.items():
        assert counts["files"] == 238 and counts["cases"] >= CASES, f"{mode}: {counts}"
