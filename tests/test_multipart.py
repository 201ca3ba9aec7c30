"""Multipart uploads in every shape and order, cut, repeated, raced and restarted: the object is what was listed, byte for byte.

ETag and bytes come from a reference in the test; where a part lies, who holds its region and what Complete did with it
is read from the disk, so that each test has seen the state that it is about.
"""

import collections
import os
import threading

import pytest
from lib import data, server, swarm, tables, uploads, window, wire

MIB = data.MIB
S = 5 * MIB  # the least size of a part that is not the last
STEP = int(os.environ.get("TWINTREE_MULTIPART_STEP", "3"))
"""Every so many'th step of a Complete is died at; tests/full takes each."""
REACHED = {}


def reached(state):
    """Counts a state that a test has seen on disk."""
    REACHED[state] = REACHED.get(state, 0) + 1


@pytest.fixture(scope="module", autouse=True)
def say_what_was_reached():
    """Prints how often each state was seen."""
    yield
    tables.say("states of uploads that were seen on disk", [("state", "times"), *sorted(REACHED.items())])


class Place:
    """A bucket of its own on gateways that are shared."""

    def __init__(self, bucket, daemons):
        self.bucket, self.daemons = bucket, daemons
        self.uploads = []
        bucket.mkdir()

    @property
    def urls(self):
        """Where the gateways listen now."""
        return [one.url for one in self.daemons]

    def upload(self, key="object", headers=()):
        """A new upload."""
        self.uploads.append(uploads.Upload(self.bucket, key, self.urls, headers))
        return self.uploads[-1]

    def hang_up(self):
        """Ends what a failed test has left under way, which gateways would wait for."""
        for flight in (flight for upload in self.uploads for flight in upload.flights):
            flight.cut("fin")

    def object(self, key="object"):
        """The file that the object is now, as what changes when it is published again; None: there is none."""
        path = self.bucket / key
        return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None

    def is_clean(self):
        """Nothing that nobody will ever see takes room: no body without a name, no upload, nothing in stage/."""
        for one in self.daemons:
            server.wait_until(lambda: not uploads.unnamed(one, self.bucket), "unnamed files are closed")
        folders = [self.bucket / ".twintree" / name for name in ("uploads", "stage")]
        server.wait_until(lambda: not any(any(folder.iterdir()) for folder in folders if folder.exists()), "nothing is left")


@pytest.fixture(scope="module")
def gateways(tmp_path_factory):
    """Two gateways on one tree, for all tests that leave them alive."""
    folder = tmp_path_factory.mktemp("gateways")
    (folder / "tree").mkdir()
    with server.Daemon(folder / "tree", folder / "one") as one, server.Daemon(folder / "tree", folder / "two") as two:
        yield [one, two]


@pytest.fixture
def place(gateways):
    """A bucket of the test's own on the two gateways."""
    made = sum(1 for _ in gateways[0].root.iterdir())
    place = Place(gateways[0].root / f"bucket-{made}", gateways)
    yield place
    place.hang_up()


@pytest.fixture(params=["ofd", "flock", "lease"])
def locked(place, request):
    """The same, with each way of keeping other processes out; a lease is for filesystems without locks."""
    locks = place.bucket / ".twintree" / "locks"
    locks.mkdir(parents=True)
    (locks / "mode").write_text(f'{{"version":1,"kind":"{request.param}","stripes":1024}}\n')
    return place


@pytest.fixture
def mortal(daemon, tree):
    """A bucket on two gateways of the test's own, to be killed."""
    return Place(tree / "bucket-one", [daemon(tree), daemon(tree)])


# name: parts in the order in which they are sent, listed numbers (None: all), where each ends up, and how Complete makes the
# object: the assembly itself, a part's own file itself, or a new file that the parts are gathered in.
SHAPES = {
    "uniform": ([(1, S), (2, S), (3, S)], None, "aaa", "assembly"),
    "short-last": ([(1, S), (2, S), (3, 1000)], None, "aaa", "assembly"),
    "short-last-first": ([(3, MIB), (1, S), (2, S)], None, "aao", "assembly"),
    "long-short-last-first": ([(3, S), (1, S + MIB), (2, S + MIB)], None, "ooa", "gathered"),
    "reverse": ([(4, 777), (3, S), (2, S), (1, S)], None, "aaao", "assembly"),
    "last-is-the-stride-less-one": ([(1, S), (2, S - 1)], None, "aa", "assembly"),
    "last-is-the-stride-and-one": ([(1, S), (2, S + 1)], None, "ao", "assembly"),
    "last-is-one-byte": ([(1, S), (2, 1)], None, "aa", "assembly"),
    "last-is-empty": ([(1, S), (2, 0)], None, "ao", "assembly"),
    "odd-stride": ([(1, S + 1), (2, S + 1), (3, S)], None, "aaa", "assembly"),
    "larger-in-the-middle": ([(1, S), (2, S + MIB), (3, S)], None, "aoa", "gathered"),
    "smaller-in-the-middle": ([(1, S + MIB), (2, S), (3, S + MIB)], None, "aaa", "gathered"),
    "two-sizes": ([(1, S), (2, S), (3, S + MIB), (4, S + MIB)], None, "aaoo", "assembly"),
    "again-same-size": ([(1, S), (2, S), (3, S), (2, S)], None, "aoa", "assembly"),
    "again-smaller": ([(1, S + MIB), (2, S + MIB), (3, S), (2, S)], None, "aoa", "gathered"),
    "again-larger": ([(1, S), (2, S), (3, S), (2, S + 1)], None, "aoa", "gathered"),
    "last-again-smaller": ([(1, S), (2, S), (2, 10)], None, "ao", "assembly"),
    "first-again-smaller": ([(1, S + MIB), (2, S + MIB), (1, S)], None, "oa", "gathered"),
    "three-times": ([(1, S), (2, S), (2, S + 1), (2, 5), (2, 6)], None, "ao", "assembly"),
    "subset-without-the-first": ([(1, S), (2, S), (3, S)], [2, 3], "aaa", "gathered"),
    "subset-without-the-middle": ([(1, S), (2, S), (3, S)], [1, 3], "aaa", "gathered"),
    "subset-without-the-last": ([(1, S), (2, S), (3, S)], [1, 2], "aaa", "gathered"),
    "subset-without-an-own-one": ([(1, S), (2, S), (3, S + 1)], [1, 2], "aao", "assembly"),
    "gaps": ([(10, S), (20, S), (30, 5)], None, "aaa", "gathered"),
    "first-and-ten-thousandth": ([(1, S), (10_000, 1)], None, "aa", "gathered"),
    "only-the-first": ([(1, 12)], None, "a", "assembly"),
    "only-one-and-empty": ([(1, 0)], None, "o", "own"),
    "only-the-seventh": ([(7, S)], None, "a", "gathered"),
    "only-the-ten-thousandth": ([(10_000, 3)], None, "o", "own"),
    "only-one-sent-twice": ([(1, S), (1, 3)], None, "o", "own"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_and_order_is_the_concatenation_of_what_was_listed(place, random, shape):
    parts, listed, kinds, way = SHAPES[shape]
    upload = place.upload()
    for turn, (number, size) in enumerate(parts):
        upload.part(number, random.bytes(size), which=turn % 2)
    assert upload.listed() == upload.expected()
    names = {"a": "assembly", "o": "own"}
    assert upload.places() == dict(zip(sorted(upload.sent), (names[kind] for kind in kinds)))
    assert len([name for name in upload.names() if "-" in name]) == kinds.count("o"), "a replaced part's file stays"
    inodes = {entry.stat().st_ino: entry.name for entry in upload.folder.iterdir()}
    answer = upload.complete(listed, which=1)
    assert answer.status == 200 and upload.etag(listed) in answer.body.decode(), answer
    was = inodes.get((place.bucket / "object").stat().st_ino, "gathered")
    assert ("own" if "-" in was else was) == way
    upload.check(listed)
    place.is_clean()
    reached(f"Complete: {way}")
    for place_of_part in kinds:
        reached(f"a part in {'the assembly' if place_of_part == 'a' else 'a file of its own'}")


@pytest.mark.parametrize("first", [0, 1], ids=["the-first-ends-last", "the-first-ends-first"])
@pytest.mark.parametrize("sizes", [(S, S), (S, S - 3), (S - 3, S)], ids=["same-size", "then-smaller", "then-larger"])
def test_of_a_part_sent_twice_at_once_the_one_that_ends_last_stays_whole(place, random, first, sizes):
    upload = place.upload()
    bodies = [random.bytes(size) for size in sizes]
    one = upload.begin(1, bodies[0], MIB, which=0)
    server.wait_until(lambda: upload.regions() == [(0, sizes[0] - 1)], "the first has its region")
    two = upload.begin(1, bodies[1], MIB, which=1)
    server.wait_until(lambda: uploads.unnamed(place.daemons[1], place.bucket), "the second has a file of its own")
    reached("a region of the assembly locked by OFD")
    for flight in (one, two) if first else (two, one):
        assert flight.finish().status == 200
    upload.sent[1] = bodies[first]
    assert upload.listed() == upload.expected()
    assert upload.places() == {1: ("assembly", "own")[first]}
    assert upload.regions() == [] and len([name for name in upload.names() if "-" in name]) == first
    assert upload.complete().status == 200
    upload.check()


def test_of_a_part_sent_by_many_at_once_one_stays_whole(place, random):
    for turn in range(8):
        upload = place.upload(f"object-{turn}")
        bodies = [random.bytes(S - number % 3) for number in range(6)]
        flights = [upload.begin(1, body, number * MIB // 2, which=number % 2) for number, body in enumerate(bodies)]
        swarm.together(lambda number: _succeeds(flights[number].finish()), len(flights))
        (etag, size), = upload.listed().values()
        upload.sent[1] = next(body for body in bodies if data.md5(body) == etag)
        assert size == len(upload.sent[1])
        assert upload.complete().status == 200
        upload.check()


def _succeeds(answer):
    assert answer.status == 200, answer


CUTS = {"nothing": 0, "one-byte": 1, "half": S // 2, "all-but-one": S - 1}


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("old", ["assembly", "own"])
def test_a_part_that_is_sent_again_and_cut_anywhere_keeps_the_old_one(place, random, old, how):
    upload = place.upload()
    upload.part(1, random.bytes(S))
    upload.part(2, random.bytes(S))
    if old == "own":
        upload.part(2, random.bytes(S))
    assert upload.places()[2] == old
    names = upload.names()
    for turn, (cut, length) in enumerate(CUTS.items()):
        which = turn % 2
        flight = upload.begin(2, random.bytes(S), length, which)
        server.wait_until(lambda: upload.regions() or uploads.unnamed(place.daemons[which], place.bucket), f"{cut}: it has its place")
        assert not upload.regions(), f"{cut}: it writes over the part that is stored"
        flight.cut(how)
        server.wait_until(lambda: not uploads.unnamed(place.daemons[which], place.bucket), f"{cut}: the file is given up")
        assert upload.listed() == upload.expected(), cut
        assert upload.names() == names, cut
        reached(f"a part over one in {'the assembly' if old == 'assembly' else 'an own file'}, cut by {how}")
    assert upload.complete().status == 200
    upload.check()
    place.is_clean()


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_first_part_that_is_cut_anywhere_gives_its_region_back(place, random, how):
    upload = place.upload()
    upload.part(1, random.bytes(S))
    for turn, (cut, length) in enumerate(CUTS.items()):
        flight = upload.begin(2, random.bytes(S), length, turn % 2)
        server.wait_until(lambda: upload.regions() == [(S, 2 * S - 1)], f"{cut}: it has its region")
        flight.cut(how)
        server.wait_until(lambda: upload.regions() == [], f"{cut}: the region is free")
        assert upload.listed() == upload.expected(), cut
        reached(f"a region in the assembly given up, cut by {how}")
    upload.part(2, random.bytes(S))
    assert upload.places() == {1: "assembly", 2: "assembly"}, "nobody had stored anything there"
    assert upload.complete().status == 200
    upload.check()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_parts_outlive_the_gateways_also_one_that_dies_in_the_middle_of_another(mortal, random, how):
    upload = mortal.upload()

    def again():
        for one in mortal.daemons:
            if how == "stop":
                one.stop()
            else:
                one.kill()
            one.start()
        upload.urls = mortal.urls

    upload.part(3, random.bytes(MIB))
    again()
    upload.part(1, random.bytes(S))
    again()
    if how == "kill":
        flight = upload.begin(2, random.bytes(S), S // 2)
        server.wait_until(lambda: upload.regions() == [(S, 2 * S - 1)], "it has its region")
        again()
        flight.cut("fin")
        assert upload.regions() == []
        reached("a region in the assembly given up, by SIGKILL")
    assert upload.listed() == upload.expected()
    upload.part(2, random.bytes(S), which=1)
    again()
    upload.part(2, random.bytes(S), which=0)
    again()
    assert upload.places() == {1: "assembly", 2: "own", 3: "own"}
    assert upload.complete().status == 200
    upload.check()
    again()
    upload.check()
    mortal.is_clean()


@pytest.mark.parametrize("where", ["assembly", "own"])
def test_abort_during_a_part_leaves_nothing_and_refuses_the_part(place, random, where):
    upload = place.upload()
    upload.part(1, random.bytes(S))
    number = 2 if where == "assembly" else 1
    flight = upload.begin(number, random.bytes(S), S // 2, which=1)
    if where == "assembly":
        server.wait_until(lambda: upload.regions() == [(S, 2 * S - 1)], "it has its region")
    else:
        server.wait_until(lambda: uploads.unnamed(place.daemons[1], place.bucket), "it has a file of its own")
    assert upload.abort(which=0).status == 204
    assert not upload.folder.exists()
    reached(f"aborted with a part under way in {'the assembly' if where == 'assembly' else 'an own file'}")
    assert (flight.finish().code, upload.complete().code, upload.abort().code) == ("NoSuchUpload",) * 3
    assert upload.ask(1, "GET", f"?uploadId={upload.id}").code == "NoSuchUpload"
    assert place.object() is None
    place.is_clean()


LOST = {"none": {}, "if-none-match": {"if-none-match": "*"}, "if-match": {"if-match": "old"}}


@pytest.mark.parametrize("gathers", [False, True], ids=["in-place", "gathered"])
@pytest.mark.parametrize("condition", LOST)
def test_complete_repeated_after_its_answer_was_lost_says_the_same_and_publishes_once(place, random, condition, gathers):
    """Conditions too were tested once: what the first Complete made does not fail the second."""
    upload = place.upload()
    headers = dict(LOST[condition])
    if "if-match" in headers:
        headers["if-match"] = upload.ask(0, "PUT", body=b"old").headers["etag"]
    before = place.object()
    upload.part(1, random.bytes(S + 1))
    upload.part(2, random.bytes(S + 1 if not gathers else S))
    upload.part(3, random.bytes(MIB))
    with wire.Connection(None, url=upload.urls[0]) as connection:
        target, body = f"{upload.target}?uploadId={upload.id}", upload.list_of([1, 2, 3])
        every = wire.Signer().headers("POST", target, connection.host, headers, wire.UNSIGNED)
        connection.send("POST", target, every | {"content-length": len(body)}, body)
        # A client that leaves before its request has begun has asked for nothing: it leaves with the answer unread.
        made = server.wait_until(lambda: place.object() != before and place.object(), "it is published")
    for which in (0, 1, 0):
        answer = upload.complete(which=which, headers=headers)
        assert answer.status == 200 and upload.etag() in answer.body.decode(), answer
        assert place.object() == made, "published a second time"
    upload.check()
    # What came later is nobody's to overwrite.
    later = upload.ask(0, "PUT", body=b"later")
    assert later.status == 200
    for which in (0, 1):
        assert upload.complete(which=which, headers=headers).status in (404, 412)
    assert upload.ask(1, "GET").body == b"later"
    assert upload.ask(0, "DELETE").status == 204
    assert upload.complete(headers=headers).code == "NoSuchUpload"
    assert place.object() is None
    place.is_clean()


def test_complete_repeated_while_the_first_is_under_way_publishes_once(locked, random):
    """A client that does not wait: it cuts at any moment, and asks the other gateway at once."""
    for turn in range(6):
        upload = locked.upload(f"object-{turn}")
        upload.part(1, random.bytes(S))
        upload.part(2, random.bytes(S + turn % 2))
        with wire.Connection(None, url=upload.urls[0]) as connection:
            target, body = f"{upload.target}?uploadId={upload.id}", upload.list_of([1, 2])
            every = wire.Signer().headers("POST", target, connection.host, (), wire.UNSIGNED)
            connection.send("POST", target, every | {"content-length": len(body)}, body)
        assert upload.complete(which=1).status == 200
        made = locked.object(upload.key)
        assert upload.complete(which=0).status == 200
        assert locked.object(upload.key) == made, "published a second time"
        upload.check()
    locked.is_clean()


def test_completes_at_once_all_succeed_with_one_object(locked, random):
    for turn in range(5):
        upload = locked.upload(f"object-{turn}")
        upload.part(1, random.bytes(S))
        upload.part(2, random.bytes(S + turn % 2 * MIB))
        upload.part(3, random.bytes(1 + turn))
        gate, made = threading.Barrier(6, timeout=swarm.SECONDS), []

        def complete(number):
            gate.wait()
            answer = upload.complete(which=number % 2)
            assert answer.status == 200 and upload.etag() in answer.body.decode(), answer
            made.append(locked.object(upload.key))

        swarm.together(complete, 6)
        assert len(set(made)) == 1, "published more than once"
        upload.check()
    locked.is_clean()


def test_of_completes_with_different_lists_at_once_one_wins(locked, random):
    for turn in range(4):
        upload = locked.upload(f"object-{turn}")
        for number in (1, 2, 3):
            upload.part(number, random.bytes(S))
        lists = [[1, 2, 3], [1, 2], [2, 3], [3]]
        gate, answers = threading.Barrier(len(lists), timeout=swarm.SECONDS), [None] * len(lists)

        def complete(number):
            gate.wait()
            answers[number] = upload.complete(lists[number], which=number % 2)

        swarm.together(complete, len(lists))
        won = [numbers for numbers, answer in zip(lists, answers) if answer.status == 200]
        assert len(won) == 1, answers
        assert {answer.code for answer in answers if answer.status != 200} == {"NoSuchUpload"}
        upload.check(won[0])
    locked.is_clean()


def test_complete_beside_abort_is_one_of_them(locked, random):
    ended = set()
    for turn in range(8):
        upload = locked.upload(f"object-{turn}")
        upload.part(1, random.bytes(1000))
        gate, answers = threading.Barrier(2, timeout=swarm.SECONDS), [None, None]

        def end(number):
            gate.wait()
            answers[number] = upload.complete(which=turn % 2) if number else upload.abort(which=turn // 2 % 2)

        swarm.together(end, 2)
        aborted, completed = answers
        ended.add((aborted.status, completed.status))
        assert (aborted.status, completed.status) in {(204, 404), (404, 200)}, answers
        if completed.status == 200:
            upload.check()
        else:
            assert locked.object(upload.key) is None
    locked.is_clean()


def test_complete_beside_a_part_under_way_never_waits_for_it_nor_takes_bytes_of_it(place, random):
    """An unlisted part in the assembly, and a listed one that is sent again: the object is what was stored when it was listed."""
    for turn, (number, first) in enumerate([(3, False), (2, False), (2, True)]):
        upload = place.upload(f"object-{turn}")
        upload.part(1, random.bytes(S))
        if first:
            flight = upload.begin(number, random.bytes(S), S // 2, which=1)
            server.wait_until(lambda: upload.regions() == [(S, 2 * S - 1)], "it has its region")
        upload.part(2, random.bytes(S))
        assert upload.places()[2] == ("own" if first else "assembly")
        if not first:
            flight = upload.begin(number, random.bytes(S), S // 2, which=1)
        if number == 3:
            server.wait_until(lambda: upload.regions() == [(2 * S, 3 * S - 1)], "it has its region")
        in_assembly = first or number == 3
        assembly = (upload.folder / "assembly").stat().st_ino
        assert upload.complete([1, 2]).status == 200
        assert ((place.bucket / upload.key).stat().st_ino != assembly) == in_assembly, "its writer would write into the object"
        reached("Complete beside a writer " + ("in the assembly" if in_assembly else "in an own file"))
        assert flight.finish().code == "NoSuchUpload"
        upload.check([1, 2])
    place.is_clean()


def test_complete_beside_parts_that_are_replaced_takes_each_whole_or_says_that_it_changed(place, random):
    outcomes = {200: 0, 400: 0}
    for turn in range(12):
        upload = place.upload(f"object-{turn}")
        upload.part(1, random.bytes(S))
        choices = [random.bytes(S + size) for size in (0, 1, 0, 2)]
        upload.part(2, choices[0])
        done = threading.Event()

        def replace():
            for body in choices[1:]:
                answer = upload.ask(1, "PUT", upload.query(2), body)
                assert answer.status == 200 or answer.code == "NoSuchUpload", answer
            done.set()

        def complete():
            while True:
                last = done.is_set()
                for body in choices:
                    upload.sent[2] = body
                    answer = upload.complete()
                    outcomes[answer.status] += 1
                    if answer.status == 200:
                        return
                    assert answer.code == "InvalidPart", answer
                assert not last, "no part that was stored can be completed"

        swarm.together(lambda number: (replace, complete)[number](), 2)
        upload.check()
    assert outcomes[200] == 12
    place.is_clean()


def test_parts_by_many_over_two_gateways_are_one_upload(place, random):
    upload = place.upload()
    bodies = {number: random.bytes(S if number < 16 else 99) for number in range(1, 17)}
    upload.part(1, bodies[1])

    def send(worker):
        for number in range(2 + worker, 17, 4):
            upload.part(number, bodies[number], which=number % 2)

    swarm.together(send, 4)
    assert upload.head() == ("open", S)
    assert set(upload.places().values()) == {"assembly"}
    assert upload.listed(1) == upload.expected()
    assembly = (upload.folder / "assembly").stat().st_ino
    assert upload.complete(which=1).status == 200
    assert (place.bucket / "object").stat().st_ino == assembly
    upload.check()
    place.is_clean()


def test_a_list_that_is_wrong_changes_nothing_and_the_right_one_succeeds(place, random):
    upload = place.upload()
    for number, size in ((1, S), (2, S), (3, 10)):
        upload.part(number, random.bytes(size))
    sent, query = dict(upload.sent), f"?uploadId={upload.id}"
    first, inode = upload.list_of([1, 2, 3]), (upload.folder / "assembly").stat().st_ino
    wrong = {
        "InvalidPartOrder": upload.list_of([2, 1, 3]),
        "MalformedXML": b"<CompleteMultipartUpload></CompleteMultipartUpload>",
        "EntityTooSmall": None,
        "InvalidPart": first.replace(data.md5(sent[2]).encode(), data.md5(sent[1]).encode()),
    }
    upload.part(4, random.bytes(S))
    wrong["EntityTooSmall"] = upload.list_of([1, 2, 3, 4])
    for code, body in wrong.items():
        assert upload.ask(0, "POST", query, body).code == code
    assert upload.ask(0, "POST", query, first.replace(b"<PartNumber>3<", b"<PartNumber>5<")).code == "InvalidPart"
    assert upload.ask(0, "POST", query, upload.list_of([1, 1, 2])).code == "InvalidPartOrder"
    assert upload.complete(headers={"if-match": '"none"'}).status == 400, "the list is looked at first"
    assert upload.complete([1, 2, 3], headers={"if-match": '"none"'}).status == 404
    assert place.object() is None
    assert (upload.head()[0], upload.listed()) == ("open", upload.expected())
    reached("open again after a Complete that failed")
    assert upload.complete([1, 2, 3]).status == 200
    assert (place.bucket / "object").stat().st_ino != inode, "it was gathered beside part 4"
    upload.check([1, 2, 3])
    place.is_clean()


DATA_CALLS = ("read", "pread64", "readv", "preadv", "preadv2", "write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile",
              "copy_file_range", "splice", "ioctl", "mmap")


def test_complete_of_uniform_parts_neither_reads_writes_nor_copies_object_data(place, random, tmp_path):
    upload = place.upload()
    for number, size in ((1, S), (2, S), (3, S), (4, 1000)):
        upload.part(number, random.bytes(size))
    with window.Clocked(place.daemons[0], tmp_path / "uniform", names=(*DATA_CALLS, "renameat2")) as uniform:
        assert upload.complete().status == 200
    touches = lambda traced: [call for call in traced.events if call.name in DATA_CALLS and "assembly>" in call.words]  # noqa: E731
    assert [call for call in uniform.events if call.name == "renameat2" and '"assembly"' in call.words and call.done]
    assert touches(uniform) == []
    upload.check()
    # The trace does see what an odd part costs.
    odd = place.upload("odd")
    for number, size in ((1, S), (2, S + 1), (3, S)):
        odd.part(number, random.bytes(size))
    with window.Clocked(place.daemons[0], tmp_path / "odd", names=DATA_CALLS) as gathered:
        assert odd.complete().status == 200
    assert touches(gathered)
    odd.check()


@pytest.mark.parametrize("locked", ["flock", "lease"], indirect=True)
def test_where_no_region_can_be_locked_every_part_has_its_own_file(locked, random):
    for turn, sizes in enumerate([(S, S, S), (S, S + 1, 5), (S,)]):
        upload = locked.upload(f"object-{turn}")
        for number, size in enumerate(sizes, 1):
            upload.part(number, random.bytes(size), which=number % 2)
        flight = upload.begin(1, random.bytes(S), S // 2)
        flight.cut("rst")
        assert set(upload.places().values()) == {"own"} and upload.listed() == upload.expected()
        assert upload.complete(which=turn % 2).status == 200
        upload.check()
        reached("a part in a file of its own for want of locks")
    locked.is_clean()


def test_parts_that_are_ranges_of_objects_stand_beside_sent_ones(place, random):
    upload = place.upload()
    source = random.bytes(3 * S)
    assert uploads.put(upload, "source", source).status == 200
    upload.part(1, random.bytes(S))
    for number, first, last in ((2, 7, S + 6), (3, 0, S), (4, 2 * S, 2 * S + 9)):
        headers = {"x-amz-copy-source": f"/{place.bucket.name}/source", "x-amz-copy-source-range": f"bytes={first}-{last}"}
        assert upload.ask(number % 2, "PUT", upload.query(number), headers=headers).status == 200
        upload.sent[number] = source[first:last + 1]
    assert upload.places() == {1: "assembly", 2: "assembly", 3: "own", 4: "assembly"}
    assert upload.listed() == upload.expected()
    assert upload.complete().status == 200
    upload.check()
    place.is_clean()


def test_complete_repeated_after_the_object_got_tags_still_says_the_same(place, random):
    upload = place.upload()
    upload.part(1, random.bytes(1000))
    assert upload.complete().status == 200
    tags = b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"
    assert upload.ask(1, "PUT", "?tagging", tags, {"content-md5": uploads.content_md5(tags)}).status == 200
    assert [upload.complete(which=which).status for which in (0, 1)] == [200, 200]
    assert b"<Key>a</Key>" in upload.ask(0, "GET", "?tagging").body
    upload.check()


def test_a_failed_complete_of_a_subset_keeps_the_parts_that_it_did_not_list(place, random):
    upload = place.upload()
    for number, size in ((1, S), (2, S), (3, S), (4, 10), (2, S + 1)):
        upload.part(number, random.bytes(size))
    assert upload.places() == {1: "assembly", 2: "own", 3: "assembly", 4: "assembly"}
    for numbers in ([1], [1, 3], [1, 2], [2, 4], [2], [1, 2, 3]):
        refused = upload.complete(numbers, which=len(numbers) % 2, headers={"if-match": '"none"'})
        assert (refused.status, refused.code) == (404, "NoSuchKey"), refused
        assert (upload.head(), upload.listed()) == (("open", S), upload.expected())
        assert [name for name in upload.names() if name.startswith("0-")] == [], "a gathered file stays"
    assert upload.complete().status == 200
    upload.check()
    place.is_clean()


STEPS = ("pwrite64", "copy_file_range", "ftruncate", "utimensat", "fsetxattr", "fsync", "fdatasync", "linkat", "renameat", "renameat2", "unlinkat")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("listed", [[1, 2], [1, 2, 3]], ids=["gathered", "patched-in-place"])
def test_complete_repeated_after_its_gateway_died_at_any_step_says_the_same_by_another(mortal, random, tmp_path, listed):
    """The other gateway finds it published and publishes nothing, or publishes it; old bytes or new ones, never none."""
    one, died, published = mortal.daemons[0], 0, 0

    def begun(name):
        upload = mortal.upload(name)
        assert upload.ask(1, "PUT", body=b"old").status == 200
        for number, size in ((1, S), (2, S), (3, 10), (2, S)):
            upload.part(number, random.bytes(size))
        return upload

    upload = begun("whole")
    with window.Clocked(one, tmp_path / "whole", names=STEPS) as whole:
        assert upload.complete(listed).status == 200
    # strace counts each call of each thread by itself.
    counts = collections.Counter((call.thread, call.name) for call in whole.events)
    steps = sorted({(name, turn) for (_, name), times in counts.items() for turn in range(1, times + 1)})
    for name, turn in steps[::STEP]:
        upload = begun(f"{name}-{turn}")
        old = mortal.object(upload.key)
        dies = "-e", f"inject={name}:signal=KILL:when={turn}"
        with window.Clocked(one, tmp_path / "strace", names=STEPS, also=dies):
            try:
                assert upload.complete(listed).status == 200
            except ConnectionError:
                one.process.wait()
                died += 1
        made = mortal.object(upload.key)
        upload.urls = [mortal.daemons[1].url]
        assert upload.complete(listed).status == 200, f"{name} {turn}"
        if made != old:
            published += 1
            assert mortal.object(upload.key) == made, f"{name} {turn}: published a second time"
        answer = upload.ask(0, "GET")
        assert answer.headers["etag"] == f'"{upload.etag(listed)}"'
        assert answer.body == b"".join(upload.sent[number] for number in listed)
        if one.process.poll() is not None:
            one.start()
    assert died > 0
    tables.say(f"Complete ({len(listed)} of 3 parts), its gateway killed at every {STEP}. of {len(steps)} calls",
               [("killed", "had published by then"), (died, published)])
