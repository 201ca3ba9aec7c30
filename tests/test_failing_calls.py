"""One system call of a request fails: the request fails with the right error, the old object stays and is served, the daemon
lives on, nothing lies about, and the same request succeeds right afterwards, as does a DELETE.

An operation is traced once; then it is made again for each of its calls that may fail so, and strace lets that one call
fail (`inject=NAME:error=ERRNO:when=N`). What fails after the object got its name leaves the new one, whole.
"""

import pytest
from lib import inject, operations, tables, trace

SYNCS = {"fsync", "fdatasync", "syncfs"}
FULL = {"pwritev", "pwrite64", "fallocate", "linkat", "renameat", "renameat2", "mkdirat", "fsetxattr"}
OPENS = {"openat", "openat2", "fcntl"}
NAMES = {"linkat", "renameat", "renameat2", "unlinkat"}
ANSWERS = {"EIO": (500, "InternalError"), "ENOSPC": (507, "InsufficientStorage"), "EDQUOT": (507, "InsufficientStorage"),
           "EROFS": (403, "AccessDenied"), "EMFILE": (503, "SlowDown")}
OPERATIONS = ("put", "put-in-new-folders", "put-in-the-annex", "overwrite", "complete", "complete-over", "delete", "delete-with-its-folders")


@pytest.fixture(scope="module")
def counted():
    """One row for each operation and error, printed at the end."""
    rows = [("operation", "error", "calls struck", "refused", "gone on", "after its name", "not met")]
    yield rows
    tables.say("calls that failed", rows)


@pytest.fixture
def place(daemon, tree, random):
    """A bucket and a daemon with one async thread."""
    (tree / operations.BUCKET).mkdir()
    before = []
    one = daemon(tree, environment=inject.ONE_WORKER)
    before = inject.tids(one)
    place = operations.Place(one, random, None)
    place.threads = lambda: inject.Threads(one, before)
    for key in ("dir/kept", "dir/kept", "z//kept"):
        place.must("PUT", key, b"kept")
    place.put("dir/source", "source")
    yield place
    place.hang_up()


def can_fail(point, error):
    """May this call fail so?"""
    if point.role != "blocking":
        return False
    if error == "EIO":
        return point.name in SYNCS
    if error == "EMFILE":
        return point.name in ("openat", "openat2") and " = -1 " not in point.words
    opens = point.name == "openat" and ("O_TMPFILE" in point.words or "O_CREAT" in point.words)
    return opens or point.name in FULL or (error == "EROFS" and point.name == "unlinkat")


@pytest.mark.parametrize("error", ANSWERS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_call_that_fails_fails_its_request_and_nothing_else(place, tmp_path, counted, name, error):
    operation, log = operations.OPERATIONS[name], tmp_path / "strace"
    operation.reset(place)
    old = place.objects(), place.visible()
    with trace.Trace(place.daemon, log, calls="all", shown=200) as traced:
        assert operation.request(place).status < 300
    new = place.objects(), place.visible()
    found = [point for point in inject.points(traced.events, place.threads()) if point.role == "blocking"]
    target = 'k"' if "complete" not in name else 'dir>, "k"'
    named = [at for at, point in enumerate(found) if point.name in NAMES and " = 0" in point.words and (target in point.words or '"k=f"' in point.words)]
    assert named, found
    refused, gone_on, later, missed = 0, 0, 0, 0
    struck = [(at, point) for at, point in enumerate(found) if can_fail(point, error)]
    for at, point in struck:
        operation.reset(place)
        assert (place.objects(), place.visible()) == old, (point, old)
        with inject.Strike(place.daemon, place.threads().by_role["blocking"], point, f"error={error}", log) as strike:
            answer = operation.request(place)
        assert answer is not None, f"{point} failed with {error}, and the connection ended: {place.daemon.words()}"
        if not strike.hit:
            missed += 1
            continue
        state = place.objects(), place.visible()
        if answer.status < 300:
            assert point.name not in SYNCS, f"{point} failed with {error}, and the answer was {answer}"
            gone_on += 1
            assert state[0] == new[0], point
        else:
            assert (answer.status, answer.code) == ANSWERS[error], (point, answer)
            refused += 1
            if at > named[0]:
                later += 1
                assert state[0] in (old[0], new[0]), point
            else:
                assert state == old, f"{point} failed with {error}: {state} is there, not {old}"
        staged = [path for path in place.reserved() if path.startswith("stage/")]
        assert not staged, f"{point} failed with {error}, and {staged} stays"
        again = operation.request(place)
        assert again is not None and again.status < 300, f"after {point} failed with {error}, a second try gets {again}"
        assert (place.objects(), place.visible()) == new, point
    assert missed <= 1 + len(struck) // 10
    counted.append((name, error, len(struck) - missed, refused, gone_on, later, missed))
    place.must("DELETE", "dir/k")
