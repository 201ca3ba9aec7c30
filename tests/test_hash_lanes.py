"""The MD5 of bodies that come together, whatever registers compute it: against hashlib, over the wire.

Bodies of more than one batch (256 KiB) are hashed in lanes beside each other (ARCHITECTURE, "Hashes").
TWINTREE_HASH_KERNEL forces each way, also those that this processor would not choose.
"""

import concurrent.futures
import os
import threading

import pytest
from lib import data, s3, server, wire

BATCH = 256 << 10
KERNELS = ["none", "portable", "avx2", "avx512", "neon", "a name that nobody knows", None]
"""What this processor has not is the best that it has."""
CLIENTS = 20
SIZES = [0, 1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 63, data.MIB + 64, 3 * data.MIB + 17]


@pytest.fixture(scope="module", params=KERNELS, ids=lambda name: str(name))
def place(request, tmp_path_factory):
    """A daemon that hashes so."""
    folder = tmp_path_factory.mktemp("lanes")
    (folder / "root" / "data").mkdir(parents=True)
    environment = dict(os.environ)
    environment.pop("TWINTREE_HASH_KERNEL", None)
    if request.param is not None:
        environment["TWINTREE_HASH_KERNEL"] = request.param
    with server.Daemon(folder / "root", folder / "state", "--durability", "relaxed", environment=environment) as daemon:
        yield daemon


def put_in_chunks(daemon, key, body, size):
    """PUTs in signed chunks of a size that fits no block; gives the ETag."""
    signer, payload = wire.Signer(), "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    target = f"/data/{key}"
    with wire.Connection(daemon) as connection:
        headers = signer.headers("PUT", target, connection.host, {"x-amz-decoded-content-length": str(len(body))}, payload)
        framed = wire.signed_chunks(signer, body, size)
        connection.send("PUT", target, headers | {"content-length": str(len(framed))}, framed)
        answer = connection.answer("PUT")
    assert answer.status == 200, answer
    return answer.headers["etag"].strip('"')


def test_bodies_that_come_together_have_the_md5_of_their_own_bytes(place):
    """Each client PUTs every size, all at the same time, so that the lanes are many and no two end together."""
    client = s3.client(place.url)
    source = data.Source("lanes")
    bodies = {f"{number}/{size}": source.bytes(size) for number in range(CLIENTS) for size in SIZES}
    start = threading.Barrier(CLIENTS)

    def work(number):
        start.wait()
        tags = {}
        for turn in range(len(SIZES)):
            key = f"{number}/{SIZES[(turn + number) % len(SIZES)]}"
            if number % 2:
                tags[key] = put_in_chunks(place, key, bodies[key], 8192 + 101 * number)
            else:
                tags[key] = client.put_object(Bucket="data", Key=key, Body=bodies[key])["ETag"].strip('"')
        return tags

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        found = {key: tag for tags in pool.map(work, range(CLIENTS)) for key, tag in tags.items()}
    assert found == {key: data.md5(body) for key, body in bodies.items()}
    assert {key: s3.body(client, "data", key) == body for key, body in bodies.items()} == dict.fromkeys(bodies, True)


def test_parts_that_come_together_make_the_etag_of_their_md5s(place):
    client = s3.client(place.url)
    parts = [data.Source(f"part {number}").bytes(5 * data.MIB + number * 4097) for number in range(8)]
    upload = client.create_multipart_upload(Bucket="data", Key="parts")["UploadId"]

    def send(number):
        answer = client.upload_part(Bucket="data", Key="parts", UploadId=upload, PartNumber=number, Body=parts[number - 1])
        return {"PartNumber": number, "ETag": answer["ETag"]}

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        listed = list(pool.map(send, range(1, 9)))
    assert [part["ETag"].strip('"') for part in listed] == [data.md5(part) for part in parts]
    done = client.complete_multipart_upload(Bucket="data", Key="parts", UploadId=upload, MultipartUpload={"Parts": listed})
    assert done["ETag"].strip('"') == data.multipart_etag(parts)


def test_a_wrong_content_md5_is_found_in_a_lane_as_well(place):
    client = s3.client(place.url)
    body = data.Source("digest").bytes(data.MIB)
    wrong = "1B2M2Y8AsgTpgAmY7PhCfg=="  # of nothing

    def work(number):
        if number % 2:
            return s3.refused(400, "BadDigest", client.put_object, Bucket="data", Key=f"wrong/{number}", Body=body, ContentMD5=wrong)
        return client.put_object(Bucket="data", Key=f"right/{number}", Body=body)["ETag"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    assert set(s3.listed(client, "data", Prefix="wrong/")) == set()
    assert {entry["ETag"].strip('"') for entry in s3.listed(client, "data", Prefix="right/").values()} == {data.md5(body)}


def test_clients_that_leave_in_the_middle_cost_their_neighbours_nothing(place):
    client = s3.client(place.url)
    body = data.Source("leaving").bytes(2 * data.MIB)

    def leave(number):
        with wire.Connection(place) as connection:
            target = f"/data/left/{number}"
            headers = wire.Signer().headers("PUT", target, connection.host)
            connection.send("PUT", target, headers | {"content-length": len(body)}, body[: (number + 1) * 100_000])

    def work(number):
        if number % 2:
            leave(number)
            return None
        return client.put_object(Bucket="data", Key=f"stayed/{number}", Body=body)["ETag"].strip('"')

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        tags = set(pool.map(work, range(16)))
    assert tags == {None, data.md5(body)}
    assert set(s3.listed(client, "data", Prefix="left/")) == set()
