"""The reference model of both faces: random steps by S3, in the mount and in the directory itself, and after every step
what S3 answers (GET, HEAD, LIST, conditions), what the mount shows and what lies on disk, compared with the reference.

The store has such a model of its own (store/tests/model.rs: S3's operations and a direct writer, at the store's door).
This one is in Python, because its third actor is the kernel: the daemon runs as users run it, with its mount, and all
three actors work through system calls and sockets, which no room of ours can be at once. Its reference
(lib/reference.py) shares no line with that one.

Three worlds, each plain and in passthrough. S3's and the mount's changes show at once while the kernel keeps for an hour
what it knows. With a direct writer the kernel keeps nothing, because only then the mount promises to show him at once.
With the sealer at work an ETag may become the MD5 at any time.

TWINTREE_MOUNT_MODEL_RUNS: runs of each (2; 30 in tests/full). TWINTREE_MOUNT_MODEL_SEED: only this run. A run that
fails is cut down to the steps that it takes to fail, and these are printed.
"""

import os
import random
import shutil

import pytest
from lib import faces, looks, steps as kinds, tables

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="a mount of this suite needs root and /dev/fuse")
RUNS = int(os.environ.get("TWINTREE_MOUNT_MODEL_RUNS", "2"))
SEED = os.environ.get("TWINTREE_MOUNT_MODEL_SEED")
STEPS = 100
MOST_TRIALS = 100
"""Runs that are spent on finding out which steps a failure takes."""
HOUR = ("--mount-ttl", "1h")
WORLDS = {
    "S3 and mount": (("S3", "mount"), (*HOUR, "--seal", "off", "--watch", "off")),
    "direct writer": (("S3", "mount", "disk"), ("--mount-ttl", "0s", "--seal", "off", "--watch", "off")),
    "sealer": (("S3", "mount"), (*HOUR, "--seal", "written", "--seal-after", "20ms", "--watch", "off")),
}
DONE = {}
"""How often each kind of step was done, and not only drawn."""


def has_fine_times(folder):
    """Do changes that follow a look each show another ctime here?"""
    path = folder / "probe"
    path.write_bytes(b"x")

    def moves():
        before = os.stat(path).st_ctime_ns
        os.chmod(path, 0o644)
        return os.stat(path).st_ctime_ns != before
    return all(moves() for _ in range(50))


def run(folder, world, mode, steps):
    """Does the steps on a fresh tree; gives the story of those that did something, and the divergence, if there was one."""
    folder.mkdir()
    flags = WORLDS[world][1]
    wrong = None
    with faces.Faces(folder, "--mount-mode", mode, *flags, buckets=kinds.BUCKETS) as both:
        looking = looks.Looks(both, has_fine_times(folder), sealing=world == "sealer")
        try:
            for step in steps:
                looking.step(step)
        except (AssertionError, OSError) as error:  # a call that had to work did not
            wrong = str(error) or repr(error)
        finally:
            looking.end()
    shutil.rmtree(folder)
    return looking, wrong


def cut_down(trial, steps):
    """The fewest steps that were found to fail: ever smaller pieces are left out, as long as what is left fails."""
    size, trials = len(steps) // 2, 0
    while size and trials < MOST_TRIALS:
        at = 0
        while at < len(steps) and trials < MOST_TRIALS:
            fewer = steps[:at] + steps[at + size:]
            trials += 1
            if trial(fewer)[1]:
                steps = fewer
            else:
                at += size
        size //= 2
    return steps


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["plain", "passthrough"])
@pytest.mark.parametrize("world", WORLDS)
def test_all_three_show_what_the_reference_says_after_every_step(tmp_path, world, mode):
    numbers = iter(range(10**6))

    def trial(steps):
        return run(tmp_path / f"run-{next(numbers)}", world, mode, steps)

    for seed in [SEED] if SEED else range(RUNS):
        rng = random.Random(f"{world} {mode} {seed}")
        steps = [kinds.draw(rng, WORLDS[world][0]) for _ in range(STEPS)]
        looking, wrong = trial(steps)
        if wrong:
            last, wrong_last = trial(cut_down(trial, steps))
            if wrong_last:  # else it takes more than the steps: then all of them are printed
                looking, wrong = last, wrong_last
            pytest.fail(f"TWINTREE_MOUNT_MODEL_SEED={seed}: {wrong}\nafter\n  " + "\n  ".join(looking.story), pytrace=False)
        for name, count in looking.done.items():
            DONE[name] = DONE.get(name, 0) + count


def test_zz_every_kind_of_step_was_done():
    """A model whose steps never happen finds nothing."""
    if SEED:
        return
    tables.say("steps of the model", [("step", "times"), *sorted(DONE.items())])
    done = {tuple(name.split()) for name in DONE}
    by_s3, by_path = {what for face, what in done if face == "S3"}, {what for face, what in done if face != "S3"}
    assert by_s3 >= set(kinds.BY_S3) and by_path >= {*kinds.BY_PATH, *kinds.ONLY_IN_MOUNT, *kinds.ONLY_DIRECTLY}, sorted(done)
