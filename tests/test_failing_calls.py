"""One system call of a request fails: the request fails with the right error, the old object stays and is served, the daemon
lives on, nothing lies about, and the same request succeeds right afterwards, as does a DELETE.

An operation is traced once; then it is made again for each of its calls that may fail so, and strace lets that one call
fail (`inject=NAME:error=ERRNO:when=N`). What fails after the object got its name leaves the new one, whole.
"""

import concurrent.futures
import json
import re
import threading

import pytest
from lib import data, inject, operations, s3, tables, trace, wire

SYNCS = {"fsync", "fdatasync", "syncfs"}
FULL = {"pwritev", "pwrite64", "fallocate", "linkat", "renameat", "renameat2", "mkdirat", "symlinkat", "fchmod", "fsetxattr"}
OPENS = {"openat", "openat2", "fcntl"}
NAMES = {"linkat", "renameat", "renameat2", "unlinkat"}
ANSWERS = {"EIO": (500, "InternalError"), "ENOSPC": (507, "InsufficientStorage"), "EDQUOT": (507, "InsufficientStorage"),
           "EROFS": (403, "AccessDenied"), "EMFILE": (503, "SlowDown")}
OPERATIONS = ("put", "put-in-new-folders", "put-in-the-annex", "overwrite", "copy", "copy-over", "copy-onto-itself", "tag", "create-upload", "upload-part",
              "upload-part-again", "complete", "complete-over", "delete", "delete-with-its-folders")
TURNS = {"copy-onto-itself": ("fsetxattr", '"user.twintree'), "tag": ("fsetxattr", '"user.twintree'),
         "upload-part": ("pwrite64", "/parts>"), "upload-part-again": ("pwrite64", "/parts>")}
"""The call from which on an operation that names no object may have happened, though a later call fails. An upload that cannot
be begun to its last call has never been."""
PUT_BACK = ("copy-onto-itself", "tag")
"""What fails on its way here is undone."""


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
    writes = point.name == "write" and f"/{operations.BUCKET}/" in point.words.split(",")[0]
    return opens or writes or point.name in FULL or (error == "EROFS" and point.name == "unlinkat")


def is_turn(name, point):
    """Is this the call that makes the operation happen?"""
    if name in TURNS:
        return point.name == TURNS[name][0] and TURNS[name][1] in point.words and " = -1 " not in point.words
    target = 'k"' if "complete" not in name else 'dir>, "k"'
    return point.name in NAMES and " = 0" in point.words and (target in point.words or '"k=f"' in point.words)


def unfinished(place):
    """What lies in the reserved directory of writes and uploads, without the numbers that are made by chance."""
    return sorted(re.sub(r"[0-9a-f]{16,}", "N", path) for path in place.reserved() if path.startswith(("stage/", "uploads/")))


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
    named = [at for at, point in enumerate(found) if is_turn(name, point)]
    named = named or [len(found)] * (name == "create-upload")
    assert named, found
    refused, gone_on, later, missed = 0, 0, 0, 0
    struck = [(at, point) for at, point in enumerate(found) if can_fail(point, error)]
    for at, point in struck:
        operation.reset(place)
        assert (place.objects(), place.visible()) == old, (point, old)
        lying = unfinished(place)
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
            if at > named[0] and (name not in PUT_BACK or point.name in SYNCS):
                later += 1
                assert state[0] in (old[0], new[0]), point
            else:
                assert state == old, f"{point} failed with {error}: {state} is there, not {old}"
                assert unfinished(place) == lying, f"{point} failed with {error}, and more stays"
        staged = [path for path in place.reserved() if path.startswith("stage/")]
        assert not staged, f"{point} failed with {error}, and {staged} stays"
        again = operation.request(place)
        assert again is not None and again.status < 300, f"after {point} failed with {error}, a second try gets {again}"
        assert (place.objects(), place.visible()) == new, point
    assert missed <= 1 + len(struck) // 10
    counted.append((name, error, len(struck) - missed, refused, gone_on, later, missed))
    place.must("DELETE", "dir/k")


# The syncs that many share, and those that nobody waits for.

CROWD = 32


def put_at_once(daemon, keys, body):
    """All keys at the same moment, each on a connection of its own; the answers."""
    gate = threading.Barrier(len(keys), timeout=20)

    def put(key):
        with wire.Connection(daemon) as connection:
            gate.wait()
            return connection.ask("PUT", f"/{operations.BUCKET}/{key}", body)

    with concurrent.futures.ThreadPoolExecutor(len(keys)) as pool:
        return list(pool.map(put, keys))


@pytest.mark.parametrize("folders", ["one folder", "a folder each"])
@pytest.mark.parametrize("call", ["syncfs", "sync_file_range"])
def test_a_shared_sync_that_fails_fails_each_request_that_it_was_for(served, client, bucket, tree, tmp_path, random, counted, call, folders):
    """From eight at once on, one syncfs serves all who wait for their bytes, and each asks what became of its own."""
    old, new = random.bytes(4096), random.bytes(4096)
    keys = [f"{'dir' if folders == 'one folder' else f'dir-{number}'}/k-{number}" for number in range(CROWD)]
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=old)
    with trace.Trace(served, tmp_path / "strace", slow=("fsync",), fails=(call,), calls="fsync,syncfs,sync_file_range,renameat") as traced:
        answers = put_at_once(served, keys, new)
    injected = [event for event in traced.events if event.name == call and "(INJECTED)" in event.words]
    assert injected, f"nobody shared a sync: {traced.events}"
    refused = [key for key, answer in zip(keys, answers, strict=True) if answer.status != 200]
    assert refused, answers
    published = {event.words.split('"')[-2]: event.begun for event in traced.events if event.name == "renameat" and not event.failed}
    for key, answer in zip(keys, answers, strict=True):
        assert answer.status == 200 or (answer.status, answer.code) == (500, "InternalError"), (key, answer)
        expected = new if answer.status == 200 or key.rsplit("/", 1)[1] in published else old
        assert s3.body(client, bucket, key) == expected and s3.etags_everywhere(client, bucket, key) == {data.md5(expected)}, (key, answer)
    # Only a sync of what came after it, of its folder, may fail one that has its name.
    failed = [event.begun for event in injected if call == "syncfs"]
    for key in refused:
        named = published.get(key.rsplit("/", 1)[1])
        assert named is None or any(named < begun for begun in failed), f"the bytes of {key} were not synced, and it has its name"
    assert list((tree / bucket / ".twintree" / "stage").iterdir()) == [], "debris"
    assert {answer.status for answer in put_at_once(served, keys, new)} == {200}
    assert all(s3.body(client, bucket, key) == new for key in keys)
    counted.append((f"{CROWD} puts at once, {folders}", f"EIO of {call}", len(injected), len(refused), CROWD - len(refused), 0, 0))


def test_a_large_body_whose_writeback_cannot_be_begun_early_is_synced_all_the_same(served, client, bucket, tmp_path, random):
    """The early start promises nothing; what is asked in the end does, and that is what is believed."""
    old, new = random.bytes(1000), random.bytes(24 * data.MIB)
    client.put_object(Bucket=bucket, Key="large", Body=old)
    with trace.Trace(served, tmp_path / "strace", fails=("sync_file_range",), calls="fsync,sync_file_range") as traced:
        client.put_object(Bucket=bucket, Key="large", Body=new)
    assert [event for event in traced.events if event.name == "sync_file_range" and "(INJECTED)" in event.words], traced.events
    assert [event for event in traced.events if event.name == "fsync" and not event.failed], traced.events
    assert s3.body(client, bucket, "large") == new
    with trace.Trace(served, tmp_path / "strace", fails=("sync_file_range", "fsync"), calls="fsync,sync_file_range"):
        s3.refused(500, "InternalError", client.put_object, Bucket=bucket, Key="large", Body=old)
    assert s3.body(client, bucket, "large") == new and s3.etag(client, bucket, "large") == data.md5(new)
    client.put_object(Bucket=bucket, Key="large", Body=old)
    assert s3.body(client, bucket, "large") == old


def test_relaxed_vouches_for_nothing_any_more_when_a_whole_sync_failed(daemon, tree, tmp_path):
    """The pages that it lost are clean now, and no later sync tells of them; in another boot their files are read again."""
    (tree / operations.BUCKET).mkdir()
    (tree / "other").mkdir()
    one = daemon(tree, "--durability", "relaxed")

    def round(name, fails=()):
        client = s3.client(one.url)
        for bucket in (operations.BUCKET, "other"):
            client.put_object(Bucket=bucket, Key=name, Body=name.encode())
        with trace.Trace(one, tmp_path / "strace", fails=fails, calls="syncfs") as traced:
            one.stop()
        assert traced.events and all(event.failed == bool(fails) for event in traced.events), traced.events
        said = {}
        for bucket in (operations.BUCKET, "other"):
            folder = tree / bucket / ".twintree" / "synced"
            reports = [path for path in folder.iterdir()]
            assert len(reports) == 1 and not reports[0].name.startswith("new."), reports
            said[bucket] = json.loads(reports[0].read_text())["synced"]
        one.start()
        return said

    before = round("first")
    assert all(isinstance(moment, int) for moment in before.values()), before
    assert set(round("lost", fails=("syncfs",)).values()) == {None}
    assert set(round("later").values()) == {None}, "a later sync that succeeds does not bring them back"
    client = s3.client(one.url)
    for name in ("first", "lost", "later"):
        assert s3.etags_everywhere(client, operations.BUCKET, name) == {data.md5(name.encode())}, "in this boot memory still has them"
