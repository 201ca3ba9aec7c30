"""Steps of the actors (lib/actors.py): what there is to do, how often, and drawing one as plain data, so that a failing run
can be cut down to the steps that matter."""

import dataclasses
import random

BUCKETS = ("aaa", "bbb")
"""There from the start; `ccc` and `ddd` come and go."""
LATER = ("ccc", "ddd")
NAMES = ("a", "b", "a-")
BODIES = (b"", b"x", b"xy", b"yyy", random.Random(1).randbytes(5000), random.Random(2).randbytes(70_000))
HALVES = ({}, {}, {"meta": {"colour": "red"}}, {"meta": {"colour": "blue"}, "tags": {"state": "new"}}, {"tags": {"state": "old"}})
MODES = (0o600, 0o640, 0o644, 0o664, 0o755)
CONDITIONS = ("always",) * 6 + ("if absent", "if there", "if seen", "if former", "if MD5")

# How often each step is drawn: by S3, and by a face that has paths.
BY_S3 = {"put": 20, "delete": 9, "copy": 3, "tag": 3, "make_bucket": 2, "remove_bucket": 1}
BY_PATH = {"write": 5, "create": 3, "replace": 3, "same_size": 5, "append": 3, "truncate": 3, "mapped": 3, "chmod": 3, "set_times": 3,
           "unlink": 9, "make_folder": 3, "remove_folder": 3, "rename": 6, "rename_folder": 5, "exchange": 3, "link": 9,
           "set_half": 3, "remove_half": 2, "copy_range": 3, "allocate": 2}
ONLY_IN_MOUNT = {"hold": 3, "write_held": 3, "let_go": 3, "make_bucket": 2, "remove_bucket": 1, "rename_bucket": 3}
ONLY_DIRECTLY = {"remove_tree": 6}
RESTART = {"restart": 1}


@dataclasses.dataclass(frozen=True)
class Step:
    """`pick` and `other` choose among what is there; where `named`, `path` and `key` say what instead."""

    face: str
    what: str
    pick: int
    other: int
    named: bool
    path: str
    to: str
    key: str
    data: bytes
    half: dict
    when: str
    flag: int
    seed: int
    """Of the looks that follow."""


def draw_path(draw):
    bucket = draw.choice(BUCKETS * 4 + LATER)
    return "/".join([bucket, *(draw.choice(NAMES) for _ in range(draw.choice((1, 1, 2, 2, 3))))])


def draw_key(draw):
    """One that a path can hold, mostly."""
    kind = draw.randrange(12)
    if kind < 8:
        return draw_path(draw)[4:]
    if kind < 10:
        return draw_path(draw)[4:] + "/"
    return "".join(draw.choice("ab./-") for _ in range(draw.randrange(1, 6)))


def draw(rng, faces):
    """A step of one of these faces."""
    tables = {"S3": BY_S3 | RESTART, "mount": BY_PATH | ONLY_IN_MOUNT, "disk": BY_PATH | ONLY_DIRECTLY}
    face, = rng.choices(faces, [2 if face == "S3" else 3 for face in faces])
    what, = rng.choices(list(tables[face]), list(tables[face].values()))
    return Step(face, what, rng.getrandbits(30), rng.getrandbits(30), rng.random() < 0.4, draw_path(rng), draw_path(rng), draw_key(rng),
                rng.choice(BODIES), rng.choice(HALVES), rng.choice(CONDITIONS), rng.getrandbits(30), rng.getrandbits(60))
