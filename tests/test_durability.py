"""What is on disk when the client reads 200: data, then the name, then the directory, and only then the answer.

`fsync(file) -> publish -> fsync(parent)` is the only order that survived every power cut. Here strace says what the
daemon asks of the kernel; what the disk makes of it is shown elsewhere.
"""

import concurrent.futures
import re
import threading
import types

import pytest
from lib import data, order, s3, tables, trace, wire

SYNC = ("fsync", "fdatasync", "syncfs")
PUBLISH = ("linkat", "renameat2", "renameat", "rename", "link")
ANSWER = ("write", "writev", "sendto", "sendmsg")


@pytest.fixture
def place(served, client, bucket, tree, tmp_path):
    """A bucket that was written to once, so that what is made only once is there."""
    client.put_object(Bucket=bucket, Key="dir/warm", Body=b"x")
    return types.SimpleNamespace(daemon=served, client=client, bucket=bucket, directory=tree / bucket, log=tmp_path / "strace")


def in_order(place, events, directory, name):
    """The steps of one publish, each begun after the one before had ended."""
    # An unnamed file shows as `DIRECTORY/#INODE (deleted)`, a named stage or assembly below .twintree.
    published = trace.first(events, "the publish", PUBLISH, f'"{name}"')
    synced = [event for event in events if event.name in SYNC and event.ended is not None and event.ended < published.begun]
    of_content = [event for event in synced if "(deleted)" in event.words or ".twintree" in event.words or event.name == "syncfs"]
    assert of_content, f"no sync of the content before it became visible: {events}"
    entry = trace.first(events, "the sync of its directory", SYNC, f"{directory}>", after=published.ended)
    answer = trace.first(events, "the answer", ANSWER, "HTTP/1.1 20")
    assert answer.begun > entry.ended, f"200 before the directory was on disk: {events}"


@pytest.mark.parametrize("key, size", [("dir/warm", 100), ("dir/new", 100), ("dir/large", 3 * data.MIB)])
def test_put_syncs_content_then_publishes_then_syncs_the_directory_then_answers(place, random, key, size):
    body = random.bytes(size)
    with trace.Trace(place.daemon, place.log) as traced:
        place.client.put_object(Bucket=place.bucket, Key=key, Body=body)
    in_order(place, traced.events, place.directory / "dir", key.split("/")[1])


def test_new_folders_are_synced_into_their_own_parents(place, random):
    with trace.Trace(place.daemon, place.log) as traced:
        place.client.put_object(Bucket=place.bucket, Key="one/two/three", Body=random.bytes(10))
    in_order(place, traced.events, place.directory / "one" / "two", "three")
    answer = trace.first(traced.events, "the answer", ANSWER, "HTTP/1.1 20")
    for folder in (place.directory, place.directory / "one"):
        assert trace.first(traced.events, "a new folder's entry", SYNC, f"{folder}>").ended < answer.begun


def test_copy_and_complete_keep_the_same_order(place, random):
    with trace.Trace(place.daemon, place.log) as traced:
        place.client.copy_object(Bucket=place.bucket, Key="dir/copied", CopySource={"Bucket": place.bucket, "Key": "dir/warm"})
    in_order(place, traced.events, place.directory / "dir", "copied")
    upload = place.client.create_multipart_upload(Bucket=place.bucket, Key="dir/multi")["UploadId"]
    part = place.client.upload_part(Bucket=place.bucket, Key="dir/multi", UploadId=upload, PartNumber=1, Body=random.bytes(1000))
    with trace.Trace(place.daemon, place.log) as traced:
        place.client.complete_multipart_upload(Bucket=place.bucket, Key="dir/multi", UploadId=upload,
                                               MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    in_order(place, traced.events, place.directory / "dir", "multi")


def test_a_part_is_on_disk_before_its_200(place, random):
    upload = place.client.create_multipart_upload(Bucket=place.bucket, Key="dir/multi")["UploadId"]
    with trace.Trace(place.daemon, place.log) as traced:
        place.client.upload_part(Bucket=place.bucket, Key="dir/multi", UploadId=upload, PartNumber=1, Body=random.bytes(5 * data.MIB))
    answer = trace.first(traced.events, "the answer", ANSWER, "HTTP/1.1 20")
    assert trace.first(traced.events, "the part's sync", SYNC, upload).ended < answer.begun


def test_delete_syncs_the_directory_before_its_204(place):
    with trace.Trace(place.daemon, place.log) as traced:
        place.client.delete_object(Bucket=place.bucket, Key="dir/warm")
    removed = trace.first(traced.events, "the unlink", ("unlinkat",), '"warm"')
    answer = trace.first(traced.events, "the answer", ANSWER, "HTTP/1.1 204")
    assert trace.first(traced.events, "the sync", SYNC, str(place.directory), after=removed.ended).ended < answer.begun


def test_relaxed_waits_for_no_disk(daemon, tree, tmp_path, random):
    one = daemon(tree, "--durability", "relaxed")
    client = s3.client(one.url)
    client.create_bucket(Bucket="bucket-one")
    client.put_object(Bucket="bucket-one", Key="dir/warm", Body=b"x")
    with trace.Trace(one, tmp_path / "strace") as traced:
        client.put_object(Bucket="bucket-one", Key="dir/new", Body=random.bytes(1000))
    answer = trace.first(traced.events, "the answer", ANSWER, "HTTP/1.1 20")
    published = trace.first(traced.events, "the publish", PUBLISH, '"new"')
    assert published.ended < answer.begun
    assert not [event for event in traced.events if event.name in ("fsync", "fdatasync")], traced.events


def test_many_puts_at_once_share_their_syncs(place, random):
    """One after the other costs two syncs each, the content's and the directory's; at once they share."""
    def puts(prefix, threads, each):
        bodies = [random.bytes(4096) for _ in range(each)]

        def work(number):
            for turn, body in enumerate(bodies):
                place.client.put_object(Bucket=place.bucket, Key=f"dir/{prefix}-{number}-{turn}", Body=body)

        with trace.Trace(place.daemon, place.log, slow=SYNC) as traced, concurrent.futures.ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
        return len([event for event in traced.events if event.name in SYNC]) / (threads * each)

    assert puts("alone", 1, 16) == 2
    shared = puts("together", 32, 3)
    assert shared < 1.7, f"{shared:.2f} syncs for each PUT"


@pytest.mark.parametrize("durability", ["strict", "relaxed"])
def test_bucket_settings_are_on_disk_before_they_have_their_name(daemon, tree, tmp_path, durability):
    """An empty bucket.json after a power cut made the whole bucket unusable, relaxed or not."""
    one = daemon(tree, "--durability", durability)
    client = s3.client(one.url)
    client.create_bucket(Bucket="bucket-one")
    with trace.Trace(one, tmp_path / "strace") as traced:
        client.put_bucket_tagging(Bucket="bucket-one", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    synced = trace.first(traced.events, "the sync", SYNC, "bucket.json.")
    renamed = trace.first(traced.events, "the rename", PUBLISH, '"bucket.json"', after=synced.ended)
    trace.first(traced.events, "the sync of its directory", SYNC, ".twintree>", after=renamed.ended)


# Every answer of a crowd, against the whole trace.

CHECKED = {1: 24, 64: 8}
"""Rounds of each client, by how many there are at once."""


def crowd(place, random, clients, rounds):
    """Each client makes its own new folders and a shared one, puts, overwrites, copies, completes and deletes, by turns."""
    bodies = [random.bytes(4096) for _ in range(clients)]

    def work(number):
        with wire.Connection(place.daemon) as connection:
            def must(method, key, body=b"", headers=()):
                answer = connection.ask(method, f"/{place.bucket}/{key}", body, headers)
                assert answer.status < 300, answer
                return answer

            for turn in range(rounds):
                key = f"{('own-%d' % number, 'shared', 'deep/er-%d' % turn)[turn % 3]}/turn-{turn}/k-{number}"
                kind = turn % 4
                if kind == 0:
                    must("PUT", f"{key}-put", bodies[number])
                elif kind == 1:
                    must("PUT", f"{key}-copy", headers={"x-amz-copy-source": f"/{place.bucket}/dir/warm"})
                elif kind == 2:
                    upload = re.search(r"<UploadId>(.*?)</UploadId>", must("POST", f"{key}-multi?uploads").body.decode()).group(1)
                    etag = must("PUT", f"{key}-multi?partNumber=1&uploadId={upload}", bodies[number]).headers["etag"]
                    listed = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
                    must("POST", f"{key}-multi?uploadId={upload}", f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode())
                else:
                    must("DELETE", f"dir/gone-{number}-{turn}")

    for number in range(clients):
        for turn in range(3, rounds, 4):
            place.client.put_object(Bucket=place.bucket, Key=f"dir/gone-{number}-{turn}", Body=b"x")
    with trace.Trace(place.daemon, place.log, calls=order.CALLS, shown=300) as traced, concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, range(clients)))
    return traced.events


@pytest.mark.parametrize("clients", CHECKED)
def test_of_a_crowd_too_no_answer_comes_before_its_data_its_name_and_its_folders_are_on_disk(place, random, tree, clients):
    events = crowd(place, random, clients, CHECKED[clients])
    wrong, looked = order.complaints(events, tree)
    tables.say(f"answers held against the trace, {clients} clients", [("method", "answers"), *sorted(looked.items())])
    assert not wrong, (len(wrong), wrong[:5])
    each = clients * CHECKED[clients] // 4
    assert looked == {"PUT": 2 * each, "POST": each, "DELETE": each}


def test_who_finds_a_new_folder_answers_when_it_is_on_disk_too(place, random, tree):
    """Sixteen clients want one new folder at once: one makes it, and fifteen find it, while each sync takes its time."""
    bodies = [random.bytes(1000) for _ in range(16)]
    gate = threading.Barrier(16, timeout=20)

    def work(number):
        with wire.Connection(place.daemon) as connection:
            for turn in range(4):
                gate.wait()
                answer = connection.ask("PUT", f"/{place.bucket}/new-{turn}/deep/k-{number}", bodies[number])
                assert answer.status == 200, answer

    with trace.Trace(place.daemon, place.log, calls=order.CALLS, shown=300, slow=SYNC) as traced, concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    wrong, looked = order.complaints(traced.events, tree)
    assert not wrong, (len(wrong), wrong[:5])
    assert looked == {"PUT": 64}


LINES = [
    'recvfrom(9<socket:[1]>, "PUT /b/one/k HTTP/1.1', 'pwritev(8</r/b/#7>(deleted), [{...}], 1, 0) = 4', 'fsync(8</r/b/#7>(deleted)) = 0',
    'mkdirat(7</r/b>, "one", 0777) = 0', 'linkat(8</r/b/#7>(deleted), "", 6</r/b/one>, "k", AT_EMPTY_PATH) = 0', 'fsync(6</r/b/one>) = 0',
    'fsync(7</r/b>) = 0', 'writev(9<socket:[1]>, [{iov_base="HTTP/1.1 200 OK',
    'recvfrom(9<socket:[1]>, "DELETE /b/one/j HTTP/1.1', 'unlinkat(6</r/b/one>, "j", 0) = 0', 'fsync(6</r/b/one>) = 0', 'writev(9<socket:[1]>, [{iov_base="HTTP/1.1 204 No',
]


def judged(lines):
    """What the checker says of a log of these calls."""
    return order.complaints(list(trace.parse("\n".join(f"1 {line}" for line in lines))), "/r")[0]


def test_the_checker_lets_the_right_order_pass_and_counts_it():
    assert order.complaints(list(trace.parse("\n".join(f"1 {line}" for line in LINES))), "/r") == ([], {"PUT": 1, "DELETE": 1})
    assert judged([line.replace("fsync(8", "syncfs(8").replace("fsync(6", "syncfs(6") for line in LINES]) == []


@pytest.mark.parametrize("without, complaint", [(2, "its file was not synced"), (5, "/r/b/one was not synced after it"), (6, "after the new folder"), (10, "was not synced after it")])
def test_the_checker_sees_a_missing_sync(without, complaint):
    assert complaint in " ".join(judged(LINES[:without] + LINES[without + 1:]))


@pytest.mark.parametrize("moved, to, complaint", [(2, 4, "its file was not synced"), (1, 3, "its file was not synced"), (5, 4, "was not synced after it"),
                                                  (7, 6, "after the new folder"), (7, 5, "was not synced after it"), (11, 10, "was not synced after it"), (10, 9, "was not synced")])
def test_the_checker_sees_a_wrong_order(moved, to, complaint):
    lines = LINES[:moved] + LINES[moved + 1:]
    lines.insert(to, LINES[moved])
    assert complaint in " ".join(judged(lines)), judged(lines)


def test_complete_of_uniform_parts_moves_no_data(place, random):
    upload = place.client.create_multipart_upload(Bucket=place.bucket, Key="dir/multi")["UploadId"]
    bodies = [random.bytes(5 * data.MIB), random.bytes(5 * data.MIB), random.bytes(100_000)]
    parts = [{"PartNumber": number, "ETag": place.client.upload_part(Bucket=place.bucket, Key="dir/multi", UploadId=upload, PartNumber=number, Body=body)["ETag"]}
             for number, body in enumerate(bodies, 1)]
    calls = "read,pread64,preadv,preadv2,readv,write,pwrite64,pwritev,pwritev2,writev,copy_file_range,sendfile,splice,ioctl,mmap,renameat,renameat2,linkat"
    with trace.Trace(place.daemon, place.log, calls=calls) as traced:
        place.client.complete_multipart_upload(Bucket=place.bucket, Key="dir/multi", UploadId=upload, MultipartUpload={"Parts": parts})
    trace.first(traced.events, "the publish", PUBLISH, '"multi"')
    files = re.compile(r"\d+<[^>]*(/assembly|/dir/multi|/#\d+|/\d+-[0-9a-f]{16})>")
    of_data = [event for event in traced.events if event.name not in PUBLISH and files.search(event.words)]
    assert not of_data, of_data
    assert s3.body(place.client, place.bucket, "dir/multi") == b"".join(bodies)


def test_a_complete_sent_again_syncs_what_a_killed_one_may_not_have(served, client, bucket, tree, tmp_path, random):
    """The daemon dies after the rename and before the sync of the directory: the second answer is the first."""
    upload = client.create_multipart_upload(Bucket=bucket, Key="dir/multi")["UploadId"]
    part = client.upload_part(Bucket=bucket, Key="dir/multi", UploadId=upload, PartNumber=1, Body=random.bytes(1000))
    listed = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    client.complete_multipart_upload(Bucket=bucket, Key="dir/multi", UploadId=upload, MultipartUpload=listed)
    with trace.Trace(served, tmp_path / "strace") as traced:
        client.complete_multipart_upload(Bucket=bucket, Key="dir/multi", UploadId=upload, MultipartUpload=listed)
    answer = trace.first(traced.events, "the answer", ANSWER, "HTTP/1.1 20")
    for folder in (tree / bucket / "dir", tree / bucket):
        assert trace.first(traced.events, "the sync", SYNC, f"{folder}>").ended < answer.begun


def test_a_delete_sent_again_syncs_what_a_killed_one_may_not_have(place):
    with trace.Trace(place.daemon, place.log) as traced:
        place.client.delete_object(Bucket=place.bucket, Key="dir/never-there")
    answer = trace.first(traced.events, "the answer", ANSWER, "HTTP/1.1 204")
    assert trace.first(traced.events, "the sync", SYNC, f"{place.directory / 'dir'}>").ended < answer.begun
