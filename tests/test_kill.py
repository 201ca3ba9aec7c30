"""The daemon is killed at each system call of each writing operation. After a restart the old or the new state is
there, whole: what LIST, HEAD and GET say agrees with the bytes, after a sweep the tree is the one of that state to the
last folder, a retry of the request ends in the new state, and a sweep leaves nothing behind.

An operation is traced once; then, for each of its calls, it is made again from the same state and strace kills the
daemon where that call begins (`inject=NAME:signal=KILL:when=N`, see lib/inject.py for what that means). The calls are
those that name a file or a descriptor, reading ones too, on the async thread and on the blocking pool's.

TWINTREE_KILL_POINTS is how many points of an operation are taken, `all` or a number: a seeded sample, of the calls that
change something on disk first; of the operations in WHOLLY all of those are taken under `strict`.
"""

import collections
import os
import stat

import pytest
from lib import inject, operations, server, tables, trace

POINTS = os.environ.get("TWINTREE_KILL_POINTS", "8")
WHOLLY = ("put", "overwrite", "copy-over", "complete", "delete")
SHIFTS = (0, 0, 0, 0, -1, 1, 0, -1, 1, 0, 0, -2, 2, 0)
"""A second step goes to the same thread of the pool or to a new one, as it happens, and a descriptor may be closed by
either thread: a call that is not met where it was when traced is looked for. What is not met then is counted."""
TWO_STEPS = ("copy", "copy-over", "copy-onto-itself", "upload-part", "upload-part-again")
WARM = "bucket-warm"
"""Where the daemon's first request goes when nothing was written to the other bucket yet."""
DURABILITIES = {"strict": operations.OPERATIONS, "relaxed": ("first-put", "put", "put-in-new-folders", "overwrite", "complete", "complete-over", "copy")}


@pytest.fixture(scope="module")
def sweeper():
    """The program that sweeps at once."""
    return operations.sweeper()


@pytest.fixture(scope="module")
def counted():
    """One row for each operation, printed at the end."""
    rows = [("operation", "calls", "killed at", "changing", "then old", "then new", "empty until swept", "not met")]
    yield rows
    rows.append(("all", *(sum(row[column] for row in rows[1:]) for column in range(1, len(rows[0])))))
    tables.say("points at which the daemon was killed", rows)


class Stand:
    """A bucket and a daemon, which is killed and started as often as it takes."""

    def __init__(self, place, tmp_path):
        self.place, self.log = place, tmp_path / "strace"
        self.threads = None

    def before(self, operation):
        """The state before the operation, in a fresh daemon that has one idle thread in its blocking pool."""
        place = self.place
        if not operation.first:
            for key in ("dir/kept", "z//kept"):
                place.must("PUT", key, b"kept")
            place.put("dir/source", "source")
        operation.reset(place)
        state = self.state()
        place.restart()
        started = inject.tids(place.daemon)
        place.must("PUT", f"/{WARM}/k" if operation.first else "dir/kept", b"kept")
        self.threads = inject.Threads(place.daemon, started)
        return state

    def state(self):
        """By S3 and on disk."""
        return self.place.objects(), self.place.visible()

    def left(self, *what):
        """What stays in the reserved directory when a sweep has gone over it. The directory of stages itself comes with
        the first overwrite, that of notes with the first new folder, and both stay; uploads that are under way are told by S3."""
        self.place.sweep(*what)
        return {path for path in self.place.reserved() if path not in ("stage", "prune") and (what or not path.startswith("uploads"))}


@pytest.fixture
def stand(daemon, tree, tmp_path, random, sweeper, request):
    """A stand in the durability that the test asks for."""
    for bucket in (operations.BUCKET, WARM):
        (tree / bucket).mkdir()
    one = daemon(tree, "--durability", request.param, environment=inject.ONE_WORKER)
    place = operations.Place(one, random, sweeper)
    yield Stand(place, tmp_path)
    place.hang_up()


def chosen(found, random, wholly):
    """The points that are taken."""
    if POINTS == "all":
        return found
    order = random.draw().sample(found, len(found))
    order.sort(key=inject.changes, reverse=True)
    taken = order[:max(int(POINTS), sum(map(inject.changes, found)) if wholly else 0)]
    return [point for point in found if point in taken]


def trace_once(stand, operation):
    """The operation's calls. Traced again while a step of it went to a thread that began meanwhile."""
    for _ in range(60):
        with trace.Trace(stand.place.daemon, stand.log, calls="all", shown=200) as traced:
            assert operation.request(stand.place).status < 300
        if not inject.strangers(stand.place.daemon, traced.events, stand.threads):
            found = inject.points(traced.events, stand.threads)
            assert any(map(inject.changes, found)), traced.events
            return found
        stand.before(operation)
    raise AssertionError("every time a step of it went to a new thread")


def split(visible):
    """Folders and files of what is on disk."""
    return {path for path, what in visible.items() if what == "directory"}, {path: what for path, what in visible.items() if what != "directory"}


@pytest.mark.parametrize("stand, name", [(durability, name) for durability, names in DURABILITIES.items() for name in names], indirect=["stand"])
def test_killed_at_any_of_its_calls_an_operation_is_whole_or_was_never(stand, name, random, request, counted):
    operation, place = operations.OPERATIONS[name], stand.place
    old = stand.before(operation)
    before = stand.left()
    found = trace_once(stand, operation)
    new = stand.state()
    assert new != old
    left = before | stand.left(), stand.left("uploads")
    durability = request.node.callspec.params["stand"]
    taken = chosen(found, random, durability == "strict" and name in WHOLLY)
    missed, ends, folders = [], collections.Counter(), 0
    for point in taken:
        for shift in SHIFTS:
            assert stand.before(operation) == old, point
            shifted = point._replace(number=max(1, point.number + shift))
            with inject.Strike(place.daemon, stand.threads.by_role[point.role], shifted, "signal=KILL", stand.log) as strike:
                answer = operation.request(place)
                if answer is None:
                    place.daemon.process.wait(server.STOP_SECONDS)
            if place.daemon.process.poll() is None:
                continue
            assert strike.hit, stand.log.read_text()
            end, empty = check(stand, operation, point, answer, old, new, left)
            if inject.same(strike.hit, point.words):
                ends[end] += 1
                folders += bool(empty)
                break
            print(f"killed at {strike.hit} where {point} was meant")
        else:
            missed.append(point)
    assert stand.before(operation) == old
    assert operation.request(place).status < 300
    check(stand, operation, "after the answer", "answered", old, new, left)
    assert len(missed) <= 1 + len(taken) // (4 if name in TWO_STEPS else 20), missed
    changes = sum(map(inject.changes, taken))
    counted.append((f"{durability} {name}", len(found), len(taken) - len(missed), changes, ends["old"], ends["new"], folders, len(missed)))


def check(stand, operation, point, answer, old, new, left):
    """What is there after a kill. Says which state it is, and which folders were empty until the sweep."""
    place = stand.place
    place.restart()
    objects, visible = stand.state()
    assert objects in (old[0], new[0]), f"killed at {point}: neither old nor new: {objects}, but {old[0]} or {new[0]}"
    assert answer is None or objects == new[0], f"killed at {point} after its answer: the old state came back"
    state = old if objects == old[0] else new
    folders, files = split(visible)
    wanted, bodies = split(state[1])
    assert files == bodies, f"killed at {point}: on disk there is {visible}"
    # Folders that lead to the key, empty: no listing shows them, and none outlives the sweep.
    empty = folders - wanted
    assert wanted <= folders and empty <= split(old[1])[0] | split(new[1])[0], f"killed at {point}: on disk there is {visible}"
    swept = stand.left()
    assert place.visible() == state[1], f"killed at {point} and swept: on disk there is {place.visible()}, not {state[1]}"
    modes = {folder for folder in wanted if (place.directory / folder).stat().st_mode & stat.S_ISVTX}
    assert not modes, f"killed at {point} and swept: {modes} are not finished"
    assert swept <= left[0], f"killed at {point}: left behind in the reserved directory: {swept - left[0]}"
    retried = operation.request(place)
    assert retried is not None and (retried.status < 300 or (operation.once and retried.status == 404)), f"killed at {point}, a retry gets {retried}"
    again = stand.state()
    assert again == new, f"killed at {point}, a retry ends in {again}, not in {new}"
    assert stand.left("uploads") == left[1], f"killed at {point} and tried again: left behind in the reserved directory: {stand.left('uploads') ^ left[1]}"
    return ("new" if state is new else "old"), empty


@pytest.mark.parametrize("stand", ["strict"], indirect=True)
@pytest.mark.parametrize("call, shows", [("fsetxattr", "user.twintree.dir"), ("fchmod", "one"), ("linkat", '"k"')])
def test_folders_that_a_killed_write_made_go_soon_after_the_next_start(stand, call, shows):
    """Between mkdir and its mark, between the mark and the folder's own mode, and before the object has its name."""
    operation, place = operations.OPERATIONS["put-in-new-folders"], stand.place
    old = stand.before(operation)
    point = next(point for point in trace_once(stand, operation) if point.name == call and shows in point.words)
    for shift in SHIFTS:
        stand.before(operation)
        shifted = point._replace(number=max(1, point.number + shift))
        with inject.Strike(place.daemon, stand.threads.by_role[point.role], shifted, "signal=KILL", stand.log) as strike:
            if operation.request(place) is None:
                place.daemon.process.wait(server.STOP_SECONDS)
        if place.daemon.process.poll() is not None and inject.same(strike.hit, point.words):
            break
    else:
        raise AssertionError(f"{point} is not met")
    assert (place.directory / "one").is_dir()
    place.restart()
    server.wait_until(lambda: place.visible() == old[1], "the folders are gone")
    server.wait_until(lambda: not [path for path in place.reserved() if path.startswith("prune/")], "the note is gone")
    assert operation.request(place).status == 200
