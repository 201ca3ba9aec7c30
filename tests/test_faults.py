"""Disks that fail at every step: whatever runs out, the error is the right one, the old object stays whole, nothing is left
lying about, the daemon lives on, DELETE works, and once there is room PUT works again."""

import os
import resource
import shutil
import subprocess
import threading

import botocore.exceptions
import pytest
from lib import data, s3, tables, tree as trees, wire

LEFT = [*range(13), 16, 20, 24, 32, 64, 128, 256, 512, 1024, 2048]
"""Blocks (or inodes) that are left free, more in each round, until the operation gets through."""
BLOCK = 4096
POINTS = [("operation", "disk", "lack", "refused at", "done with")]


@pytest.fixture(scope="module", autouse=True)
def table():
    """Says at the end how many points of each operation met a full disk."""
    yield
    if len(POINTS) > 1:
        tables.say("disk full at every step: blocks or inodes left free", POINTS)


def status_of(call, **named):
    """(status, code, message) of a call, ("", "") where it passed."""
    try:
        call(**named)
    except botocore.exceptions.ClientError as refused:
        answer = refused.response
        return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"].get("Message", "").lower()
    return 200, "", ""


class Disk:
    """A small disk with a bucket on it: `old` with its body, and things that operations need."""

    def __init__(self, daemon, folder, random):
        self.folder, self.random = folder, random
        self.daemon = daemon(folder)
        self.client = s3.client(self.daemon.url)
        self.client.create_bucket(Bucket="bucket-one")
        self.directory = folder / "bucket-one"
        self.old = random.bytes(50_000)
        self.etag = self.client.put_object(Bucket="bucket-one", Key="dir/old", Body=self.old, Metadata={"colour": "green"})["ETag"]
        self.client.put_object(Bucket="bucket-one", Key="an//nex", Body=b"annexed")
        self.client.put_object(Bucket="bucket-one", Key="spare", Body=b"to be deleted")
        self.fillers = 0

    def fill(self, lack, left):
        """Takes every block (or inode) but `left`. What is opened for filling lies outside the bucket."""
        self.empty()
        filler = self.folder / ".filler"
        filler.mkdir()
        if lack == "inodes":
            for number in range(100_000):
                try:
                    (filler / str(number)).touch()
                except OSError:
                    break
            for number in range(left):
                (filler / str(number)).unlink()
            return
        with open(filler / "blocks", "wb", buffering=0) as file:
            end, piece = 0, 64 << 20
            while piece >= BLOCK:
                try:
                    os.posix_fallocate(file.fileno(), end, piece)
                    end += piece
                except OSError:
                    piece //= 4
            os.ftruncate(file.fileno(), max(0, end - left * BLOCK))
            os.fsync(file.fileno())

    def empty(self):
        """Gives all of it back."""
        shutil.rmtree(self.folder / ".filler", ignore_errors=True)
        os.sync()

    def is_whole(self):
        """The old object is what it was, in every answer."""
        assert s3.body(self.client, "bucket-one", "dir/old") == self.old
        head = self.client.head_object(Bucket="bucket-one", Key="dir/old")
        assert (head["ETag"], head["Metadata"]) == (self.etag, {"colour": "green"})
        assert self.daemon.process.poll() is None and "panicked" not in self.daemon.words()

    def files(self):
        """Every file that a person sees in the bucket."""
        return sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*")
                      if path.is_file() and ".twintree" not in path.parts)


@pytest.fixture
def disk(daemon, tmp_path, random, request):
    kind, lack = request.param
    # ext4 with few inodes, so that they can be used up.
    with trees.Mount(tmp_path / "disk", kind, {"xfs": 320}.get(kind, 24), inodes=120 if lack == "inodes" else None):
        one = Disk(daemon, tmp_path / "disk", random)
        one.kind, one.lack = kind, lack
        yield one
        one.daemon.stop()


def put(disk, key="new", size=20_000, **named):
    body = disk.random.bytes(size)
    return lambda: disk.client.put_object(Bucket="bucket-one", Key=key, Body=body, **named), key, body


def copy(disk):
    return lambda: disk.client.copy_object(Bucket="bucket-one", Key="copied", CopySource="bucket-one/dir/old"), "copied", disk.old


def overwrite(disk):
    """The old object itself: refused, it stays what it was."""
    call, key, body = put(disk, "dir/old", 70_000)
    return call, key, body


def tag(disk):
    tags = {"TagSet": [{"Key": f"key-{n}", "Value": "v" * 200} for n in range(10)]}
    return lambda: disk.client.put_object_tagging(Bucket="bucket-one", Key="dir/old", Tagging=tags), "dir/old", disk.old


def create_upload(disk):
    return lambda: disk.client.create_multipart_upload(Bucket="bucket-one", Key="upload"), None, None


def send_part(disk):
    upload = disk.client.create_multipart_upload(Bucket="bucket-one", Key="upload")["UploadId"]
    body = disk.random.bytes(30_000)
    return lambda: disk.client.upload_part(Bucket="bucket-one", Key="upload", UploadId=upload, PartNumber=1, Body=body), None, None


def complete(disk):
    """Parts of odd sizes out of order, so that they have to be gathered; into directories that are not there."""
    key = "deep/er/whole"
    upload = disk.client.create_multipart_upload(Bucket="bucket-one", Key=key)["UploadId"]
    bodies = [disk.random.bytes(size) for size in (5 * data.MIB, 5 * data.MIB + 4000, 1000)]
    parts = {}
    for number in (3, 1, 2):
        etag = disk.client.upload_part(Bucket="bucket-one", Key=key, UploadId=upload, PartNumber=number, Body=bodies[number - 1])["ETag"]
        parts[number] = {"PartNumber": number, "ETag": etag}
    listed = {"Parts": [parts[number] for number in sorted(parts)]}
    return lambda: disk.client.complete_multipart_upload(Bucket="bucket-one", Key=key, UploadId=upload, MultipartUpload=listed), key, b"".join(bodies)


OPERATIONS = {
    "put": put, "put over": overwrite, "put into new directories": lambda disk: put(disk, "one/two/three/four"),
    "put of 1 MiB": lambda disk: put(disk, "large", data.MIB), "put into the annex": lambda disk: put(disk, "a//b/../c"),
    "put with much metadata": lambda disk: put(disk, "meta", 100, Metadata={f"name-{n}": "v" * 150 for n in range(12)}),
    "put of dir/": lambda disk: put(disk, "made/dir/", 0), "copy": copy, "tag": tag, "create upload": create_upload,
    "part": send_part, "complete": complete,
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("disk", [("ext4", "blocks"), ("ext4", "inodes"), ("xfs", "blocks")], indirect=True, ids=["ext4-blocks", "ext4-inodes", "xfs-blocks"])
def test_a_disk_that_is_full_at_any_step_costs_the_request_and_nothing_else(disk, operation):
    call, key, body = OPERATIONS[operation](disk)
    before, refused = disk.files(), []
    for left in [*LEFT, None]:
        if left is None:
            disk.empty()
        else:
            disk.fill(disk.lack, left)
        status, code, message = status_of(call)
        if status == 200:
            break
        assert (status, code) == (507, "InsufficientStorage") and "no space left" in message, (left, status, code, message)
        refused.append(left)
        disk.is_whole()
        assert disk.files() == before, f"with {left} left, something was left behind"
    else:
        raise AssertionError("it is refused with all the room there is")
    POINTS.append((operation, disk.kind, disk.lack, f"{len(refused)} of {len(LEFT)} points", "all of it" if left is None else left))
    if key:
        got = disk.client.get_object(Bucket="bucket-one", Key=key)
        assert got["Body"].read() == body
    if key != "dir/old":
        disk.is_whole()


@pytest.mark.parametrize("disk", [("ext4", "blocks"), ("ext4", "inodes"), ("xfs", "blocks")], indirect=True, ids=["ext4-blocks", "ext4-inodes", "xfs-blocks"])
def test_on_a_disk_without_one_block_delete_works_and_put_works_again_after_it(disk):
    disk.fill(disk.lack, 0)
    assert status_of(disk.client.put_object, Bucket="bucket-one", Key="new", Body=disk.random.bytes(20_000))[0] == 507
    for key in ("spare", "an//nex"):
        disk.client.delete_object(Bucket="bucket-one", Key=key)
    assert sorted(s3.listed(disk.client, "bucket-one")) == ["dir/old"]
    disk.is_whole()
    disk.client.delete_object(Bucket="bucket-one", Key="dir/old", IfMatch=disk.etag)
    disk.empty()
    disk.client.put_object(Bucket="bucket-one", Key="new", Body=b"there is room")
    assert s3.body(disk.client, "bucket-one", "new") == b"there is room"


def test_a_quota_that_is_used_up_is_507_and_says_so(daemon, tmp_path, random):
    """btrfs's quota groups: of the quotas that there are, the ones that every kernel with btrfs has."""
    with trees.Mount(tmp_path / "disk", "btrfs", 256):
        limited = tmp_path / "disk" / "limited"
        for words in (["subvolume", "create"], ["quota", "enable"], ["qgroup", "limit", "8M"]):
            subprocess.run(["btrfs", *words, str(limited)], check=True, capture_output=True)
        one = Disk(daemon, limited, random)
        for key in ("new", "dir/old"):
            status, code, message = status_of(one.client.put_object, Bucket="bucket-one", Key=key, Body=random.bytes(16 * data.MIB))
            assert (status, code) == (507, "InsufficientStorage") and "quota" in message, (key, message)
            one.is_whole()
        assert one.files() == ["dir/old", "spare"]
        one.client.put_object(Bucket="bucket-one", Key="small", Body=b"there is room for this")
        for key in ("spare", "small"):
            one.client.delete_object(Bucket="bucket-one", Key=key)
        one.is_whole()
        one.daemon.stop()


def test_a_disk_that_turns_read_only_under_requests_is_403_and_writable_again_later(daemon, tmp_path, random):
    with trees.Mount(tmp_path / "disk", "ext4", 24) as mount:
        one = Disk(daemon, tmp_path / "disk", random)
        one.daemon.restart()  # with its lock files open for writing, the kernel would refuse to remount
        one.client = s3.client(one.daemon.url)
        mount.remount("ro")
        for call, named in ((one.client.put_object, {"Key": "dir/old", "Body": b"x"}), (one.client.delete_object, {"Key": "dir/old"}),
                            (one.client.copy_object, {"Key": "copied", "CopySource": "bucket-one/dir/old"}),
                            (one.client.create_multipart_upload, {"Key": "upload"}),
                            (one.client.put_object_tagging, {"Key": "dir/old", "Tagging": {"TagSet": [{"Key": "a", "Value": "b"}]}})):
            status, code, message = status_of(call, Bucket="bucket-one", **named)
            assert (status, code) == (403, "AccessDenied") and "read-only" in message, (call, status, message)
            one.is_whole()
        mount.remount("rw")
        one.client.put_object(Bucket="bucket-one", Key="dir/old", Body=b"writable again")
        assert s3.body(one.client, "bucket-one", "dir/old") == b"writable again"
        one.daemon.stop()


def test_a_root_that_left_is_503_until_a_restart_finds_it_again(daemon, tmp_path, random):
    """Mounted again, it is another mount: the descriptor that we hold is of the one that left, so a restart it is."""
    with trees.Mount(tmp_path / "disk", "ext4", 24) as mount:
        one = Disk(daemon, tmp_path / "disk", random)
        mount.detach()
        ways = ((one.client.get_object, {"Key": "dir/old"}), (one.client.put_object, {"Key": "new", "Body": b"x"}),
                (one.client.list_objects_v2, {}), (one.client.delete_object, {"Key": "dir/old"}))
        for call, named in ways:
            assert status_of(call, Bucket="bucket-one", **named)[:2] == (503, "ServiceUnavailable"), call
        assert os.listdir(tmp_path / "disk") == [], "nothing is made in the bare mount point"
        assert one.daemon.process.poll() is None
        one.daemon.stop()
        again = subprocess.run(["mount", "-o", "loop", str(mount.image), str(tmp_path / "disk")], capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        mount.mounted = True
        one.daemon.start()
        one.client = s3.client(one.daemon.url)
        one.is_whole()
        one.client.put_object(Bucket="bucket-one", Key="new", Body=b"back")
        one.daemon.stop()


def test_without_descriptors_requests_are_503_and_the_daemon_serves_on(daemon, tree, random):
    """EMFILE: forty descriptors, and more connections and open bodies than that."""
    one = daemon(tree)
    client = s3.client(one.url)
    client.create_bucket(Bucket="bucket-one")
    old = random.bytes(50_000)
    client.put_object(Bucket="bucket-one", Key="dir/old", Body=old)
    used = len(os.listdir(f"/proc/{one.pid}/fd"))
    hard = resource.prlimit(one.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(one.pid, resource.RLIMIT_NOFILE, (used + 8, hard))
    seen, together = [], threading.Barrier(12)

    def work(number):
        together.wait()
        for turn in range(10):
            try:
                with wire.Connection(one, seconds=20) as connection:
                    seen.append(connection.ask("PUT", f"/bucket-one/deep/er/{number}-{turn}", old).status)
                    seen.append(connection.ask("GET", "/bucket-one/dir/old").status)
            except OSError:
                seen.append(0)  # no descriptor for the connection itself

    workers = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert set(seen) <= {0, 200, 503}, sorted(set(seen))
    assert 200 in seen and (503 in seen or 0 in seen), "the limit was met, and some got through"
    resource.prlimit(one.pid, resource.RLIMIT_NOFILE, (hard, hard))
    assert s3.body(client, "bucket-one", "dir/old") == old
    client.put_object(Bucket="bucket-one", Key="new", Body=b"served on")
    for key in s3.listed(client, "bucket-one", Prefix="deep/"):
        assert s3.body(client, "bucket-one", key) == old, "what is there is whole"
    assert "panicked" not in one.words()
