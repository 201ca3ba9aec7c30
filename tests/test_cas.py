"""Compare-and-swap among two processes on one tree: one winner, no lost update, also while one of them is killed.

Sixteen clients, half on each process. The length is TWINTREE_CAS_ROUNDS (1,000 in tests/full).
"""

import os
import threading
import time

import pytest
from lib import data, history, server, swarm, tables, window, wire

ROUNDS = int(os.environ.get("TWINTREE_CAS_ROUNDS", "150"))
CLIENTS = 16
BUCKET = "bucket-one"
METHODS = ("PUT", "Complete", "Copy")
# A plain path, one whose parents come and go with it, and three that live in the annex.
KEYS = ("flat", "made/for/it", "a//b", "dir/", "blocked/below", "ü/ключ")
KILLS = max(4, ROUNDS // 25)
BOTH_LIVE, ONE_DIES = pytest.param("ofd", 0, id="both-live"), pytest.param("ofd", KILLS, id="one-is-killed")
# A lease of a process that died is waited for a minute, by design: those are not killed here.
OTHER_LOCKS = (pytest.param("flock", KILLS, id="flock-one-is-killed"), pytest.param("lease", 0, id="lease-both-live"))


def target(key, query=""):
    """A request's target."""
    return f"/{BUCKET}/{wire.encode(key, safe='/-._~')}{query}"


class Writer:
    """One client that writes by any of the three methods; what is needed for that is made before."""

    def __init__(self, pair, number, random):
        self.client = swarm.Client(pair, number % 2)
        self.number, self.random, self.written = number, random, 0
        self.uploads = {}

    def body(self, text=""):
        """A body that nobody else writes."""
        self.written += 1
        size = 100_000 if self.written % 8 == 0 else 200
        return f"{text} {self.number} {self.written} ".encode() + self.random.bytes(size)

    def upload(self, key, body):
        """An upload of `key` with one part, kept until somebody says that it ended."""
        if key not in self.uploads:
            made = self.client.insist("POST", target(key, "?uploads"))
            upload = made.body.split(b"<UploadId>")[1].split(b"</UploadId>")[0].decode()
            self.client.insist("PUT", target(key, f"?partNumber=1&uploadId={upload}"), body)
            self.uploads[key] = (upload, body)
        return self.uploads[key]

    def ready(self, method, key, condition, body):
        """A request that is ready to be sent, the bytes that it makes the object's, and their ETag."""
        headers = {}
        if condition is history.ABSENT:
            headers["if-none-match"] = "*"
        elif condition != history.ANY:
            headers["if-match"] = f'"{condition}"'
        if method == "DELETE":
            return self.client.ready("DELETE", target(key), b"", headers), None, history.ABSENT
        if method == "Complete":
            upload, body = self.upload(key, body)
            words = ("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber>"
                     f"<ETag>{data.md5(body)}</ETag></Part></CompleteMultipartUpload>").encode()
            ready = self.client.ready("POST", target(key, f"?uploadId={upload}"), words, headers)
            return ready, body, data.multipart_etag([body])
        if method == "Copy":
            source = f"sources/{self.number}"
            self.client.insist("PUT", target(source), body)
            headers["x-amz-copy-source"] = f"/{BUCKET}/{source}"
            return self.client.ready("PUT", target(key), b"", headers), body, data.md5(body)
        return self.client.ready("PUT", target(key), body, headers), body, data.md5(body)

    def send(self, ready, method, key, etag):
        """The status; None where the answer was lost. A success names its ETag, a loser keeps its upload."""
        try:
            answer = self.client.send(ready)
        except swarm.Lost:
            self.uploads.pop(key, None)
            return None
        if answer.status == 200:
            assert etag.encode() in answer.body or answer.headers.get("etag") == f'"{etag}"', answer
            if method == "Complete":
                self.uploads.pop(key)
        elif answer.status != 204:
            refused = {(412, "PreconditionFailed"), (409, "ConditionalRequestConflict"), (404, "NoSuchKey")}
            assert (answer.status, answer.code) in refused, answer
        return answer.status

    def read(self, key):
        """The ETag and the bytes of an object; None twice where there is none."""
        answer = self.client.insist("GET", target(key), status=(200, 404))
        if answer.status == 404:
            return history.ABSENT, None
        return answer.headers["etag"].strip('"'), answer.body


@pytest.fixture
def pair(daemon, tree, request):
    """Two processes on one tree with a bucket in it, whose keys are locked in the way that the test names."""
    locks = tree / BUCKET / ".twintree" / "locks"
    locks.mkdir(parents=True)
    kind = getattr(request, "param", "ofd")
    (locks / "mode").write_text(f'{{"version":1,"kind":"{kind}","stripes":1024}}\n')
    pair = swarm.Pair(daemon, tree)
    client = swarm.Client(pair, 0)
    client.insist("PUT", target("blocked"), b"a file, where a folder would have to be")
    yield pair
    pair.end()
    client.drop()


@pytest.fixture
def writers(pair, request):
    """The sixteen."""
    return [Writer(pair, number, data.Source(f"{request.node.nodeid} {number}")) for number in range(CLIENTS)]


def spread(random, kills, requests):
    """At which requests to kill: anywhere, but not all at once."""
    return [int((turn + random.draw().random()) * requests / kills) for turn in range(kills)]


def one_winner(turn, outcomes, etag, body):
    """One 200, all others refused, and the object is that one's; where answers were lost it may be one of theirs."""
    statuses = [status for status, _, _ in outcomes]
    assert set(statuses) <= {200, 409, 412, None}, (turn, statuses)
    won = [(bytes_, tag) for status, bytes_, tag in outcomes if status == 200]
    assert len(won) <= 1, (turn, statuses)
    if not won:
        assert None in statuses, (turn, statuses)
        won = [(bytes_, tag) for status, bytes_, tag in outcomes if status is None] + [(None, history.ABSENT)]
    assert (body, etag) in won, (turn, statuses, etag)


def one_swap(turn, outcomes, etag, body):
    """Of writes and DELETEs by one ETag one took effect: a write, and the DELETEs found another object, or a DELETE."""
    writes, deletes = outcomes[1::2], outcomes[0::2]
    statuses = [status for status, _, _ in outcomes]
    assert {status for status, _, _ in writes} <= {200, 404, 409, 412, None}, (turn, statuses)
    assert {status for status, _, _ in deletes} <= {204, 409, 412, None}, (turn, statuses)
    won = [(bytes_, tag) for status, bytes_, tag in writes if status == 200]
    assert len(won) <= 1, (turn, statuses)
    deleted = any(status == 204 for status, _, _ in deletes)
    assert not (won and deleted), (turn, statuses)
    if not won and not deleted:
        assert None in statuses, (turn, statuses)
        won = [(bytes_, tag) for status, bytes_, tag in writes if status is None] + [(None, history.ABSENT)]
    assert (body, etag) in (won or [(None, history.ABSENT)]), (turn, statuses, etag)


def count(tally, method, outcomes):
    """Adds a round up."""
    row = tally.setdefault(method, [0, 0, 0, 0])
    statuses = [status for status, _, _ in outcomes]
    won = 1 if set(statuses) & {200, 204} else 0
    lost = statuses.count(None)
    for column, more in enumerate((1, won, lost, 1 - won)):
        row[column] += more


def say_rounds(tally, kills):
    """Prints what was played."""
    rows = [("method", "rounds", "with a winner", "answers lost", "rounds without an answered winner")]
    tables.say(f"If-None-Match: * by {CLIENTS} clients on two processes, {kills} kills",
               rows + [(method, *row) for method, row in tally.items()])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("pair, kills", [BOTH_LIVE, ONE_DIES], indirect=["pair"])
def test_of_sixteen_creates_exactly_one_wins_and_the_object_is_the_winners(pair, writers, random, kills):
    """In every third round eight of them then replace it and eight delete it, all by its ETag."""
    outcomes = [None] * CLIENTS
    gate = threading.Barrier(CLIENTS + 1, timeout=swarm.SECONDS)
    seen = {}

    def method_of(turn, number):
        return METHODS[turn % 4] if turn % 4 < 3 else METHODS[(number + turn // 4) % 3]

    def work(number):
        writer = writers[number]
        try:
            for turn in range(ROUNDS):
                key, method = KEYS[turn // 4 % len(KEYS)], method_of(turn, number)
                ready, body, etag = writer.ready(method, key, history.ABSENT, writer.body())
                gate.wait()
                outcomes[number] = (writer.send(ready, method, key, etag), body, etag)
                gate.wait()  # all have their answer
                gate.wait()  # the object was looked at
                if seen["etag"] and turn % 3 == 0:
                    swap = method if number % 2 else "DELETE"
                    ready, body, etag = writer.ready(swap, key, seen["etag"], writer.body())
                    gate.wait()
                    outcomes[number] = (writer.send(ready, swap, key, etag), body, etag)
                gate.wait()
        except BaseException:
            gate.abort()
            raise

    def referee(_):
        judge = Writer(pair, 0, random)
        tally = {}
        try:
            for turn in range(ROUNDS):
                key = KEYS[turn // 4 % len(KEYS)]
                gate.wait()
                gate.wait()
                seen["etag"], body = judge.read(key)
                one_winner(turn, outcomes, seen["etag"], body)
                count(tally, "mixed" if turn % 4 == 3 else METHODS[turn % 4], outcomes)
                swaps = seen["etag"] and turn % 3 == 0
                gate.wait()
                if swaps:
                    gate.wait()
                gate.wait()
                if swaps:
                    one_swap(turn, outcomes, *judge.read(key))
                    count(tally, "If-Match", outcomes)
                judge.client.insist("DELETE", target(key), status=(204,))
            say_rounds(tally, kills)
        except BaseException:
            gate.abort()
            raise

    # A round is at least one request of each client.
    pair.kill_at(spread(random, kills, ROUNDS * CLIENTS))
    swarm.together(lambda number: work(number) if number < CLIENTS else referee(number), CLIENTS + 1)
    pair.end()
    assert pair.kills == kills


@pytest.mark.timeout(900)
@pytest.mark.parametrize("pair, kills", [BOTH_LIVE, ONE_DIES, *OTHER_LOCKS], indirect=["pair"])
def test_a_counter_by_if_match_ends_at_the_number_of_its_200s(pair, writers, random, kills):
    """Every client reads it and writes one more with the ETag that it read; all answers fit one order of all requests."""
    key = "counter"
    start = b"0 start"
    writers[0].client.insist("PUT", target(key), start)
    won, lost, seen = [], [], []
    enough = threading.Event()
    pair.kill_at(spread(random, kills, ROUNDS * 2))

    def work(number):
        writer = writers[number]
        while not enough.is_set():
            method = METHODS[writer.written % 3] if number % 4 == 3 else "PUT"
            begun = time.monotonic()
            etag, body = writer.read(key)
            seen.append(history.Op("read", begun, time.monotonic(), etag=etag, status=200))
            # The upload is dropped: its part has another body than the next value.
            writer.uploads.pop(key, None)
            value = writer.body(str(int(body.split()[0]) + 1))
            seen.append(timed(writer, method, key, etag, value))
            {200: won, None: lost}.get(seen[-1].status, []).append(number)
            if len(won) >= ROUNDS:
                enough.set()

    swarm.together(work, CLIENTS)
    pair.end()
    ends = [int(swarm.Client(pair, which).insist("GET", target(key)).body.split()[0]) for which in (0, 1)]
    assert ends[0] == ends[1]
    assert len(won) <= ends[0] <= len(won) + len(lost), (ends, len(won), len(lost))
    assert kills or ends[0] == len(won)
    assert pair.kills == kills
    assert history.is_linear(seen, data.md5(start)), "no order of the requests explains these answers"
    refused = sum(1 for op in seen if op.status == 412)
    tables.say(f"If-Match counter by {CLIENTS} clients on two processes, {kills} kills",
               [("end", "200s", "412s", "answers lost", "requests in one order"), (ends[0], len(won), refused, len(lost), len(seen))])


def timed(writer, method, key, condition, body):
    """Writes or deletes, and what a history keeps of it."""
    ready, _, etag = writer.ready(method, key, condition, body)
    begun = time.monotonic()
    status = writer.send(ready, method, key, etag)
    ended = float("inf") if status is None else time.monotonic()
    return history.Op("delete" if method == "DELETE" else "write", begun, ended, condition, etag, status)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("pair, kills", [BOTH_LIVE, ONE_DIES], indirect=["pair"])
def test_all_answers_about_a_key_fit_one_order_of_all_requests(pair, writers, random, kills):
    """Reads, and writes and DELETEs with every condition and none, by every method, on keys of every place."""
    keys = KEYS[:4]
    each = max(20, ROUNDS // 5)
    seen = {key: [] for key in keys}
    pair.kill_at(spread(random, kills, each * CLIENTS))

    def work(number):
        writer, draw = writers[number], writers[number].random.draw()
        known = dict.fromkeys(keys)
        for _ in range(each):
            key = draw.choice(keys)
            begun = time.monotonic()
            etag, body = writer.read(key)
            seen[key].append(history.Op("read", begun, time.monotonic(), etag=etag, status=404 if body is None else 200))
            # Mostly what was just read, sometimes what was read long ago.
            condition = draw.choice([etag, etag, etag, known[key], history.ANY])
            known[key] = etag
            method = draw.choice((*METHODS, "DELETE"))
            if method == "DELETE" and condition is history.ABSENT:
                continue
            writer.uploads.pop(key, None)
            seen[key].append(timed(writer, method, key, condition, writer.body()))

    swarm.together(work, CLIENTS)
    pair.end()
    for which in (0, 1):
        last = Writer(pair, which, random)
        for key in keys:
            begun = time.monotonic()
            etag, body = last.read(key)
            seen[key].append(history.Op("read", begun, time.monotonic(), etag=etag, status=404 if body is None else 200))
    rows = [("key", "requests", "writes", "deletes", "refused", "answers lost")]
    for key, ops in seen.items():
        assert history.is_linear(ops), f"no order of the requests on {key!r} explains their answers"
        tell = lambda kind, *statuses: sum(1 for op in ops if op.kind == kind and op.status in statuses)  # noqa: E731
        rows.append((key, len(ops), tell("write", 200), tell("delete", 204), tell("write", 404, 412) + tell("delete", 412),
                     tell("write", None) + tell("delete", None)))
    tables.say(f"every condition by {CLIENTS} clients on two processes, {kills} kills: one order explains all answers", rows)


def test_the_search_for_an_order_knows_a_lost_update_and_a_stale_read():
    op = history.Op
    chain = [op("write", 0, 1, history.ABSENT, "a", 200), op("write", 2, 5, "a", "b", 200), op("write", 3, 6, "b", "c", 200)]
    assert history.is_linear([*chain, op("write", 2, 7, "a", "d", 412), op("read", 8, 9, etag="c", status=200)])
    assert not history.is_linear([*chain, op("write", 2, 7, "a", "d", 200)]), "two followed one"
    assert not history.is_linear([*chain, op("read", 7, 8, etag="b", status=200)]), "an old read"
    assert not history.is_linear([*chain, op("write", 7, 8, "c", "d", 412)]), "refused for nothing"
    assert not history.is_linear([*chain, op("read", 7, 8, status=404)]), "gone"
    lost = op("write", 2, needs="a", etag="d")
    assert history.is_linear([*chain, lost]), "it never came about"
    assert history.is_linear([chain[0], lost, op("read", 8, 9, etag="d", status=200)]), "it came about"
    assert not history.is_linear([*chain, lost, op("read", 8, 9, etag="d", status=200)]), "both followed one"
    deleted = op("delete", 7, 9, "c", status=204)
    assert history.is_linear([*chain, deleted, op("delete", 7, 9, "c", status=204), op("read", 10, 11, status=404)])
    assert not history.is_linear([*chain, deleted, op("read", 10, 11, etag="c", status=200)])


class Rival:
    """A person who writes beside us: a new file, renamed over the object or linked where there is none."""

    def __init__(self, tree, name):
        self.object, self.file = tree / BUCKET / name, tree / "rival"
        self.begun = self.ended = 0.0

    def write(self, body):
        """Makes the new file."""
        self.file.unlink(missing_ok=True)
        self.file.write_bytes(body)

    def rename(self):
        """Moves it over the object, and remembers when."""
        self.begun = time.time()
        os.rename(self.file, self.object)
        self.ended = time.time()

    def link(self):
        """Gives it the object's name if nothing has it; says whether it did."""
        try:
            os.link(self.file, self.object)
            return True
        except FileExistsError:
            return False


BEFORE, BEHIND = -1.0, float("inf")


def moments(random, spans):
    """When a rival acts: once before the request, once behind its answer, else at any moment of it."""
    yield from (BEFORE, BEHIND)
    for _ in range(ATTEMPTS - 2):
        yield spans[-1] * random.draw().random()


def race(writer, ready, act, moment, spans):
    """Sends what is ready, acts at that moment, and gives the answer's status and what the act gave; keeps how long it took."""
    acted = act() if moment == BEFORE else None
    begun = time.monotonic()
    writer.client._connection.socket.sendall(ready[1])
    if BEFORE < moment < BEHIND:
        time.sleep(moment)
        acted = act()
    answer = writer.client._connection.answer(ready[0])
    spans.append(spans[-1] + (1.2 * (time.monotonic() - begun) - spans[-1]) / 8)
    return answer.status, act() if moment == BEHIND else acted


BY = pytest.mark.parametrize("method", [*METHODS, "DELETE"])
ATTEMPTS = max(40, ROUNDS // 4)
"""How often a rival tries its luck beside each method."""


@pytest.mark.timeout(900)
@BY
def test_a_direct_rename_before_the_check_is_never_overwritten_by_an_if_match_of_the_old_etag(pair, writers, random, tree, tmp_path, method):
    """strace says when the check looked and when the object was replaced; each step is slowed, so that all are hit."""
    writer, rival = writers[0], Rival(tree, "object")
    trials, spans = [], [0.05]
    writer.client.insist("PUT", target("object"), b"warm")
    with window.Clocked(pair.daemons[0], tmp_path / "strace", slow=2) as traced:
        for moment in moments(random, spans):
            old = writer.client.insist("PUT", target("object"), writer.body()).headers["etag"].strip('"')
            writer.uploads.pop("object", None)
            ready, ours, _ = writer.ready(method, "object", old, writer.body())
            theirs = writer.body("theirs")
            rival.write(theirs)
            status, _ = race(writer, ready, rival.rename, moment, spans)
            trials.append((status, rival.begun, rival.ended, time.time(), ours, theirs, writer.read("object")[1]))
    replaced = window.windows(traced.events, "object")
    tally = {"before the check": 0, "between check and replacement": 0, "of these, the rename was lost": 0, "after it": 0}
    for status, renamed, done, answered, ours, theirs, now in trials:
        assert status in (200, 204, 412)
        if status == 412:
            assert now == theirs, "a direct write that came first is lost"
            tally["before the check"] += 1
            continue
        check, _, ended = next(one for one in reversed(replaced) if one[0] < answered)
        assert done >= check, "it was there when the check looked, and is overwritten"
        if renamed > ended:
            assert now == theirs
            tally["after it"] += 1
        else:
            tally["between check and replacement"] += 1
            tally["of these, the rename was lost"] += now == ours
            assert now in (ours, theirs)
    assert tally["before the check"] and tally["after it"]
    tables.say(f"{method} If-Match beside a direct rename at any moment, every step slowed by 2 ms", [("the rename came", "times"), *tally.items()])


@pytest.mark.timeout(900)
@BY
def test_the_window_of_a_direct_writer_is_as_long_as_measured(pair, writers, random, tree, tmp_path, method):
    """Not slowed: how long check and replacement are apart, and how often a rename at any moment of a request hits that."""
    writer, rival = writers[0], Rival(tree, "object")
    writer.client.insist("PUT", target("object"), b"warm")
    with window.Clocked(pair.daemons[0], tmp_path / "strace") as traced:
        for _ in range(20):
            old = writer.client.insist("PUT", target("object"), writer.body()).headers["etag"].strip('"')
            writer.uploads.pop("object", None)
            assert writer.client.send(writer.ready(method, "object", old, writer.body())[0]).status in (200, 204)
    # What has no condition does not look.
    apart = sorted(begun - check for check, begun, _ in window.windows(traced.events, "object"))
    lost = tried = 0
    spans = [0.005]
    for moment in moments(random, spans):
        old = writer.client.insist("PUT", target("object"), writer.body()).headers["etag"].strip('"')
        writer.uploads.pop("object", None)
        ready, ours, _ = writer.ready(method, "object", old, writer.body())
        rival.write(writer.body("theirs"))
        status, _ = race(writer, ready, rival.rename, moment, spans)
        tried += 1
        lost += status != 412 and writer.read("object")[1] == ours
    assert len(apart) == 20
    tables.say(f"{method} If-Match: the window between check and replacement", [
        ("under strace, median", "longest", "renames at any moment", "lost", "a request took about"),
        (f"{apart[10] * 1e6:.0f} us", f"{apart[-1] * 1e6:.0f} us", tried, lost, f"{spans[-1] / 1.2 * 1e6:.0f} us")])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", METHODS)
def test_a_name_that_a_direct_writer_takes_first_is_never_taken_by_if_none_match(pair, writers, random, tree, tmp_path, method):
    """There is no window here, however slow each step is: the kernel gives a free name away once."""
    writer, rival = writers[0], Rival(tree, "object")
    spans, won = [0.05], [0, 0]
    writer.client.connect()
    with window.Clocked(pair.daemons[0], tmp_path / "strace", slow=2):
        for moment in moments(random, spans):
            writer.client.insist("DELETE", target("object"), status=(204,))
            writer.uploads.pop("object", None)
            ready, ours, _ = writer.ready(method, "object", history.ABSENT, writer.body())
            theirs = writer.body("theirs")
            rival.write(theirs)
            status, linked = race(writer, ready, rival.link, moment, spans)
            assert status == (412 if linked else 200), "one of them has it"
            assert writer.read("object")[1] == (theirs if linked else ours)
            won[linked] += 1
    assert min(won) > 0
    tables.say(f"{method} If-None-Match: * beside a direct link at any moment, every step slowed by 2 ms", [("ours", "theirs", "both"), (*won, 0)])


def test_of_sixteen_creates_of_an_empty_directory_object_one_wins(pair, writers):
    """It is a mark on a directory and no file; who won shows in its metadata."""
    for turn in range(max(10, ROUNDS // 10)):
        gate, answers = threading.Barrier(CLIENTS, timeout=swarm.SECONDS), [None] * CLIENTS

        def create(number):
            headers = {"if-none-match": "*", "x-amz-meta-who": str(number)}
            ready = writers[number].client.ready("PUT", target("folder/"), b"", headers)
            gate.wait()
            answers[number] = writers[number].client.send(ready).status

        swarm.together(create, CLIENTS)
        assert (answers.count(200), answers.count(412)) == (1, CLIENTS - 1), answers
        seen = writers[turn % 2].client.insist("HEAD", target("folder/"))
        assert seen.headers["x-amz-meta-who"] == str(answers.index(200))
        writers[0].client.insist("DELETE", target("folder/"), status=(204,))


@BY
@pytest.mark.parametrize("which", [0, 1], ids=["same-process", "other-process"])
def test_who_waits_for_the_key_is_tested_against_what_was_published_meanwhile(pair, writers, tree, tmp_path, method, which):
    """A PUT is held where it has the key's lock and a name in stage/, just before it replaces the object."""
    first, second = writers[2], writers[which]
    old = first.client.insist("PUT", target("object"), first.body()).headers["etag"].strip('"')
    held, body, etag = first.ready("PUT", "object", old, first.body())
    waiting, _, other = second.ready(method, "object", old, second.body())
    stage = tree / BUCKET / ".twintree" / "stage"
    with window.Clocked(pair.daemons[0], tmp_path / "strace", slow=500, names=("renameat",)):
        statuses = []
        holder = threading.Thread(target=lambda: statuses.append(first.send(held, "PUT", "object", etag)))
        holder.start()
        server.wait_until(lambda: stage.exists() and any(stage.iterdir()), "the PUT is about to replace it")
        statuses.append(second.send(waiting, method, "object", other))
        holder.join(swarm.SECONDS)
    assert sorted(statuses) == [200, 412], "both followed one"
    assert second.read("object") == (etag, body)
