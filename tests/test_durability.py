"""What is on disk when the client reads 200: data, then the name, then the directory, and only then the answer.

`fsync(file) -> publish -> fsync(parent)` is the only order that survived every power cut. Here strace says what the
daemon asks of the kernel; what the disk makes of it is shown elsewhere.
"""

import concurrent.futures
import types

import pytest
from lib import data, s3, trace

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
