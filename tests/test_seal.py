"""`twintree seal`: files that nobody PUT get their MD5, no record is ever of bytes that the file does not have, whoever
writes beside it and whatever ends it, and a gateway that runs shows it at once."""

import os
import re
import shutil
import signal
import struct
import threading

import mmap

import pytest
from lib import command, data, s3, server, tables, tree as trees
from lib.aftermath import crc64

ROUNDS = int(os.environ.get("TWINTREE_SEAL_ROUNDS", "4"))
"""Seals beside writers, each."""
KILLS = int(os.environ.get("TWINTREE_SEAL_KILLS", "4"))
MD5 = re.compile("[0-9a-f]{32}")

pytestmark = pytest.mark.needs("xattrs")


def fill(folder, random, count, size):
    """Files that nobody PUT, some of them in folders; gives their bodies by key."""
    bodies = {}
    for number in range(count):
        key = f"f-{number:04}" if number % 3 else f"sub/{number % 7}/f-{number:04}"
        bodies[key] = random.bytes(random.draw().randrange(size // 2, size))
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(bodies[key])
    return bodies


def faults(root, bucket):
    """Every ETag and checksum of an inventory that is not that of the file's bytes; and how many ETags looked like an MD5."""
    wrong, right = [], 0
    for row in command.inventory(root, bucket):
        body = (root / bucket / row["key"]).read_bytes()
        if MD5.fullmatch(row["etag"]):
            right += row["etag"] == data.md5(body)
            if row["etag"] != data.md5(body):
                wrong.append((row, "the MD5 is of other bytes"))
    return wrong, right


# What it does.

def test_files_that_nobody_put_get_their_md5_and_checksum_and_a_running_gateway_shows_them_at_once(served, client, bucket, tree, random):
    bodies = fill(tree / bucket, random, 40, 3000)
    before = {key: s3.etag(client, bucket, key) for key in bodies}
    assert all(tag.endswith("-1") for tag in before.values())
    done = command.seal(tree, bucket)
    assert (done["sealed"], done["already sealed"], done["skipped"], done["failed"]) == (40, 0, 0, 0), done
    for key, body in bodies.items():
        assert s3.etags_everywhere(client, bucket, key) == {data.md5(body)}, key
        head = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        assert head["ChecksumCRC64NVME"] == crc64(body)
        # Who read it before goes on.
        assert s3.body(client, bucket, key, IfMatch=f'"{before[key]}"') == body
        s3.refused(304, "304", client.head_object, Bucket=bucket, Key=key, IfNoneMatch=f'"{before[key]}"')


def test_a_gateway_started_later_and_the_inventory_show_the_same(daemon, tree, random):
    (tree / "photos").mkdir()
    bodies = fill(tree / "photos", random, 10, 3000)
    command.seal(tree)
    rows = command.inventory(tree, "photos")
    assert {row["key"]: (row["etag"], row["crc64nvme"], row["state"]) for row in rows} == {
        key: (data.md5(body), crc64(body), "valid") for key, body in bodies.items()}
    client = s3.client(daemon(tree).url)
    for key, body in bodies.items():
        assert s3.etag(client, "photos", key) == data.md5(body)


def test_a_large_file_has_the_md5_of_all_of_it(tree, random):
    (tree / "photos").mkdir()
    body = random.bytes(64 * data.MIB + 1)
    (tree / "photos" / "large").write_bytes(body)
    done = command.seal(tree, "photos", "--threads", 2)
    assert done["sealed"] == 1
    assert [row["etag"] for row in command.inventory(tree, "photos")] == [data.md5(body)]


def test_content_mtime_atime_mode_and_owner_stay(tree, random):
    bucket = tree / "photos"
    bucket.mkdir()
    bodies = fill(bucket, random, 6, 3000)
    for number, key in enumerate(bodies):
        os.chmod(bucket / key, 0o640 + number % 2)
        os.utime(bucket / key, ns=(1_000_000_001, 1_600_000_000_123_456_789))
    def shown(path):
        stat = path.stat()
        return (stat.st_ino, stat.st_mode, stat.st_uid, stat.st_size, stat.st_mtime_ns, stat.st_atime_ns)
    before = {key: shown(bucket / key) for key in bodies}
    assert command.seal(tree)["sealed"] == 6
    assert {key: shown(bucket / key) for key in bodies} == before
    assert {key: (bucket / key).read_bytes() for key in bodies} == bodies


def test_what_was_said_of_an_object_outlives_the_edit_that_the_seal_reads(client, bucket, tree, random):
    client.put_object(Bucket=bucket, Key="k", Body=random.bytes(900), Metadata={"colour": "green"}, ContentType="text/css", Tagging="a=b")
    with open(tree / bucket / "k", "ab") as file:
        file.write(b"more")
    body = (tree / bucket / "k").read_bytes()
    (tree / bucket / "page.html").write_bytes(b"<p>")
    client.put_object_tagging(Bucket=bucket, Key="page.html", Tagging={"TagSet": [{"Key": "x", "Value": "y"}]})
    assert command.seal(tree, bucket)["sealed"] == 2
    head = client.head_object(Bucket=bucket, Key="k")
    assert (head["ETag"], head["Metadata"], head["ContentType"]) == (f'"{data.md5(body)}"', {"colour": "green"}, "text/css")
    assert client.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "a", "Value": "b"}]
    assert client.head_object(Bucket=bucket, Key="page.html")["ContentType"] == "text/html"
    assert client.get_object_tagging(Bucket=bucket, Key="page.html")["TagSet"] == [{"Key": "x", "Value": "y"}]


def test_a_touched_multipart_object_keeps_its_etag_where_the_content_is_the_same(client, bucket, tree, random):
    upload = client.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
    parts = [random.bytes(5 * data.MIB), random.bytes(77)]
    sent = [client.upload_part(Bucket=bucket, Key="m", UploadId=upload, PartNumber=n, Body=part)["ETag"] for n, part in enumerate(parts, 1)]
    client.complete_multipart_upload(Bucket=bucket, Key="m", UploadId=upload, MultipartUpload={
        "Parts": [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(sent, 1)]})
    command.grows_old(tree / bucket / "m")
    assert [row["state"] for row in command.inventory(tree, bucket)] == ["unverified"]
    assert command.seal(tree, bucket)["sealed"] == 1
    assert s3.etags_everywhere(client, bucket, "m") == {data.multipart_etag(parts)}


def test_an_edit_whose_mtime_was_put_back_gets_a_new_record(client, bucket, tree, random):
    client.put_object(Bucket=bucket, Key="k", Body=random.bytes(900))
    path = tree / bucket / "k"
    before, body = path.stat(), random.bytes(900)
    path.write_bytes(body)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    command.grows_old(path)
    command.seal(tree, bucket)
    assert s3.etags_everywhere(client, bucket, "k") == {data.md5(body)}


def test_annex_keys_links_and_hard_links_are_sealed_too(client, bucket, tree, random):
    for key in ("a", "a/b", "x//y"):
        client.put_object(Bucket=bucket, Key=key, Body=random.bytes(50))
    annexed = [path for path in (tree / bucket / ".twintree" / "annex").rglob("*=f")]
    assert len(annexed) == 2
    for path in annexed:
        path.write_bytes(random.bytes(60))
    (tree / bucket / "by-hand").write_bytes(b"x")
    os.link(tree / bucket / "by-hand", tree / bucket / "again")
    os.symlink("by-hand", tree / bucket / "link")
    command.seal(tree, bucket)
    rows = command.inventory(tree, bucket)
    assert {row["state"] for row in rows} == {"valid"} and len(rows) == 6
    for row in rows:
        assert row["etag"] == data.md5(s3.body(client, bucket, row["key"])), row


def test_a_second_run_reads_nothing_and_one_after_an_edit_reads_that_file(tree, random):
    (tree / "photos").mkdir()
    bodies = fill(tree / "photos", random, 20, 5000)
    first = command.seal(tree)
    assert (first["sealed"], first["already sealed"]) == (20, 0)
    trees.quieten(tree)
    before = trees.picture(tree)
    second = command.seal(tree)
    assert (second["sealed"], second["already sealed"], second["read"]) == (0, 20, 0)
    assert trees.picture(tree) == before
    (tree / "photos" / "f-0001").write_bytes(b"other")
    third = command.seal(tree)
    assert (third["sealed"], third["already sealed"], third["read"]) == (1, 19, 5), third
    assert set(bodies) == {row["key"] for row in command.inventory(tree, "photos") if row["state"] == "valid"}


def test_a_part_of_the_tree_is_sealed_and_the_rest_left_alone(tree, random):
    for name in ("photos", "music"):
        (tree / name).mkdir()
        fill(tree / name, random, 9, 500)
    command.seal(tree, "photos/sub/")
    states = {(name, row["key"]): row["state"] for name in ("photos", "music") for row in command.inventory(tree, name)}
    assert {key for key, state in states.items() if state == "valid"} == {key for key in states if key[0] == "photos" and key[1].startswith("sub/")}
    assert not (tree / "music" / ".twintree").exists()


def test_a_dry_run_says_what_it_would_read_and_changes_nothing(tree, random):
    (tree / "photos").mkdir()
    bodies = fill(tree / "photos", random, 9, 500)
    (tree / "photos" / "line\nfeed").write_bytes(b"")
    trees.quieten(tree)
    before = trees.picture(tree)
    done = command.seal(tree, "--dry-run")
    assert trees.picture(tree) == before
    lines = [line for line in done["text"].splitlines() if line.startswith("would seal photos/")]
    wanted = {f"would seal photos/{key} (none, {len(body)} bytes)" for key, body in bodies.items()}
    assert set(lines) == wanted | {"would seal photos/line\\nfeed (none, 0 bytes)"}
    assert (done["would seal"], done["already sealed"]) == (10, 0)


# Beside whoever writes.

def test_a_file_that_somebody_has_open_for_writing_is_left_and_said(tree, random):
    (tree / "photos").mkdir()
    fill(tree / "photos", random, 5, 500)
    with open(tree / "photos" / "f-0001", "r+b"):
        done = command.seal(tree)
        assert (done["sealed"], done["skipped"]) == (4, 1), done
        assert "1 open for writing" in done["text"] or "1 changed only now" in done["text"], done
        assert os.listxattr(tree / "photos" / "f-0001") == []
    assert command.seal(tree)["sealed"] == 1


class Writer:
    """Rewrites files in place, without end, in one of several ways; `stop()` ends it after the change at hand."""

    def __init__(self, paths, way, source):
        self.paths, self.way, self.random = paths, way, source.draw()
        self.changes, self.going = 0, True
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while self.going:
            path = self.random.choice(self.paths)
            self.way(self, path, path.stat())
            self.changes += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.going = False
        self.thread.join(60)
        assert not self.thread.is_alive()


def in_pieces(self, path, stat):
    """A whole rewrite by many writes: any moment of it is torn."""
    with open(path, "r+b", buffering=0) as file:
        for offset in range(0, stat.st_size, 4096):
            os.pwrite(file.fileno(), self.random.randbytes(min(4096, stat.st_size - offset)), offset)


def through_a_mapping(self, path, stat):
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        for offset in range(0, stat.st_size - 8, 4096):
            view[offset:offset + 8] = struct.pack("Q", self.random.getrandbits(64))


def by_rename(self, path, stat):
    fresh = path.with_name(f"{path.name}.{threading.get_ident()}")
    fresh.write_bytes(self.random.randbytes(stat.st_size))
    fresh.rename(path)


@pytest.mark.parametrize("way", [in_pieces, through_a_mapping, by_rename])
def test_no_etag_is_ever_of_bytes_that_the_file_does_not_have_while_files_are_rewritten(served, client, bucket, tree, random, way):
    top = tree / bucket
    bodies = fill(top, random, 24, 400_000)
    paths = [top / key for key in bodies]
    counts = {"sealed": 0, "changed while reading": 0, "skipped": 0}
    with Writer(paths, way, random) as one, Writer(paths, way, random) as two:
        for _ in range(ROUNDS):
            seen = one.changes
            done = command.seal(tree, bucket)
            counts = {name: counts[name] + done[name] for name in counts}
            server.wait_until(lambda: one.changes > seen, "the writer goes on")
    wrong, _ = faults(tree, bucket)
    assert wrong == []
    # After quiet everything can be sealed, and S3 says so.
    server.wait_until(lambda: command.seal(tree, bucket)["skipped"] == 0, "quiet")
    wrong, right = faults(tree, bucket)
    assert wrong == [] and right == len(bodies)
    for key in bodies:
        assert s3.etags_everywhere(client, bucket, key) == {data.md5((top / key).read_bytes())}, key
    tables.say(f"seal beside writers, {way.__name__}", [("rounds", "changes", *counts), (ROUNDS, one.changes + two.changes, *counts.values())])
    assert one.changes and two.changes


def test_a_file_that_is_rewritten_while_it_is_read_gets_the_md5_of_what_it_became(tree, random):
    """With its mtime put back: neither size nor mtime tell the reader."""
    path = tree / "photos" / "slow"
    path.parent.mkdir()
    path.write_bytes(random.bytes(data.MIB))
    os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    process = command.start("seal", tree, "photos", "--rate", "512K")
    server.wait_until(lambda: command.reads(process.pid, path), "it reads the file", 60)
    with open(path, "r+b", buffering=0) as file:
        file.write(random.bytes(1000))
    os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    printed, said = process.communicate(timeout=60)
    done = command.summary(printed, said)
    assert (done["sealed"], done["changed while reading"]) == (1, 0), "it was read again"
    assert done["read"] >= 1, done
    assert [row["etag"] for row in command.inventory(tree, "photos")] == [data.md5(path.read_bytes())]


def test_objects_that_are_put_while_they_are_sealed_have_the_last_body(client, bucket, tree, random):
    last, going = {}, threading.Event()
    keys = [f"k-{number}" for number in range(12)]
    for key in keys:
        (tree / bucket / key).write_bytes(random.bytes(100_000))
    draw = random.draw()
    def put():
        while not going.is_set():
            key = draw.choice(keys)
            last[key] = draw.randbytes(5000)
            client.put_object(Bucket=bucket, Key=key, Body=last[key])
            with open(tree / bucket / draw.choice(keys), "ab") as file:
                file.write(b"+")
    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    for _ in range(ROUNDS):
        command.seal(tree, bucket)
    going.set()
    thread.join(60)
    command.seal(tree, bucket)
    wrong, right = faults(tree, bucket)
    assert wrong == [] and right == len(keys) and last
    for key in keys:
        assert s3.etag(client, bucket, key) == data.md5(s3.body(client, bucket, key))


def test_two_seals_at_once_end_well_and_agree(tree, random):
    (tree / "photos").mkdir()
    bodies = fill(tree / "photos", random, 200, 3000)
    both = [command.start("seal", tree, "photos", "--threads", "2") for _ in range(2)]
    done = []
    for process in both:
        printed, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        done.append(command.summary(printed, said))
    assert sum(one["sealed"] for one in done) >= 200
    wrong, right = faults(tree, "photos")
    assert wrong == [] and right == len(bodies)


# Cut short.

def half_way(process, tree, bucket):
    """Waits until some, but not all, files have a record."""
    def some():
        states = [row["state"] for row in command.inventory(tree, bucket)]
        return "valid" in states or process.poll() is not None
    server.wait_until(some, "something is sealed", 60)


def test_a_run_that_is_killed_is_gone_on_with(tree, random):
    bucket = tree / "photos"
    bucket.mkdir()
    bodies = fill(bucket, random, 120, 60_000)
    kept, cut = [0], 0
    for _ in range(KILLS):
        # So slow that it cannot come to its end before it is killed.
        process = command.start("seal", tree, "photos", "--rate", "400K", "--threads", "2")
        half_way(process, tree, "photos")
        seen = kept[-1]
        def more(seen=seen):
            return process.poll() is not None or sum(row["state"] == "valid" for row in command.inventory(tree, "photos")) > seen
        server.wait_until(more, "it goes on", 60)
        cut += process.poll() is None
        process.kill()
        process.communicate(timeout=60)
        wrong, right = faults(tree, "photos")
        assert wrong == []
        assert right >= kept[-1], "what was sealed stays sealed"
        kept.append(right)
    assert cut and kept[1] > 0
    done = command.seal(tree, "photos")
    assert (done["sealed"], done["already sealed"]) == (len(bodies) - kept[-1], kept[-1])
    wrong, right = faults(tree, "photos")
    assert wrong == [] and right == len(bodies)
    tables.say("seal, killed", [("kills", "files", "sealed after each"), (cut, len(bodies), " ".join(map(str, kept[1:])))])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_far_it_came(tree, random, number):
    (tree / "photos").mkdir()
    bodies = fill(tree / "photos", random, 60, 60_000)
    process = command.start("seal", tree, "photos", "--rate", "200K")
    half_way(process, tree, "photos")
    process.send_signal(number)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 130, (printed, said)
    done = command.summary(printed, said)
    assert "run it again" in done["text"]
    valid = sum(row["state"] == "valid" for row in command.inventory(tree, "photos"))
    assert 0 < done["sealed"] == valid < len(bodies)
    assert command.seal(tree)["sealed"] == len(bodies) - valid


def test_a_writer_does_not_wait_for_a_slow_seal(tree, random):
    """The kernel keeps who opens a file for writing waiting until the lease is given back (45 s, lease-break-time)."""
    path = tree / "photos" / "slow"
    path.parent.mkdir()
    path.write_bytes(random.bytes(40_000_000))
    process = command.start("seal", tree, "photos", "--rate", "16K")
    try:
        server.wait_until(lambda: command.reads(process.pid, path), "it reads the file", 60)
        with open(path, "r+b") as file:  # pytest's own timeout, or the rate, would make this endless
            file.write(b"new")
        assert process.poll() is None
    finally:
        process.terminate()
        printed, said = process.communicate(timeout=60)
    done = command.summary(printed, said)
    assert done["sealed"] == 0 and os.listxattr(path) == []


# How fast, and how it says so.

def test_a_rate_is_kept_and_lines_tell_how_far_it_is(tree, random):
    (tree / "photos").mkdir()
    for number in range(7):
        (tree / "photos" / f"f-{number}").write_bytes(random.bytes(data.MIB))
    done = command.seal(tree, "--rate", "1MiB", "--threads", 4)
    seconds = float(re.search(r"in ([0-9.]+) s", done["text"])[1])
    assert seconds > 2, "seven MiB at one a second: four threads read one chunk each before they wait"
    assert re.search(r"^twintree: sealing: \d of 7 objects, [0-9.]+ .?i?B of 7\.00 MiB, .*/s, \d+ seconds? left$", done["said"], re.MULTILINE), done


# What is refused, and what fails.

def test_a_read_only_filesystem_and_a_read_only_store_are_refused_with_a_sentence(tree, tmp_path):
    settings = tmp_path / "twintree.toml"
    settings.write_text("read-only = true\n")
    (tree / "plain").mkdir()
    (tree / "plain" / "f").write_bytes(b"x")
    done = command.run("seal", tree, "plain", "--config", settings)
    assert done.returncode == 1 and done.stderr == b"twintree: nothing can be recorded: the store is read-only\n" and done.stdout == b"", done
    with trees.Mount(tree / "sealed-off", "tmpfs", 8) as mount:
        (tree / "sealed-off" / "f").write_bytes(b"x")
        mount.remount("ro")
        done = command.run("seal", tree, "sealed-off")
        sentence = b'twintree: nothing can be recorded: the filesystem of bucket "sealed-off" is read-only\n'
        assert (done.returncode, done.stderr, done.stdout) == (1, sentence, b""), done
        # The others are sealed, and the exit code says that not all were.
        done = command.run("seal", tree)
        assert done.returncode == 1 and sentence in done.stderr, done
        assert os.listxattr(tree / "plain" / "f") == ["user.twintree"]
        mount.remount("rw")
    trees.remove(tree)
    tree.mkdir()


def test_what_we_may_not_change_is_named_and_the_rest_is_sealed():
    if os.geteuid() != 0:
        pytest.skip("giving up privileges needs root")
    with trees.Public() as folder:
        binary = shutil.copy(server.BINARY, os.path.join(folder, "twintree"))
        root = os.path.join(folder, "tree")
        bucket = os.path.join(root, "bucket")
        os.makedirs(bucket)
        os.chown(bucket, 65534, 65534)
        for name, owner, mode in (("mine", 65534, 0o644), ("theirs", 0, 0o644), ("secret", 0, 0o600)):
            path = os.path.join(bucket, name)
            with open(path, "wb") as file:
                file.write(name.encode())
            os.chown(path, owner, owner)
            os.chmod(path, mode)
            os.utime(path, (1, 1))
        # Without the right to a lease, two seconds of rest have to do: the second run finds them.
        for _ in range(2):
            done = command.run("seal", root, wrapper=command.NOBODY, binary=binary)
        assert done.returncode == 1, done
        said = done.stderr.decode()
        assert re.search('cannot seal "theirs": permission denied', said) and re.search('cannot read "secret": ', said), said
        assert "2 entries could not be sealed" in said
        assert os.listxattr(os.path.join(bucket, "mine")) == ["user.twintree"]
        assert os.listxattr(os.path.join(bucket, "theirs")) == []


def test_a_record_of_a_later_version_is_left_alone_and_said(client, bucket, tree):
    client.put_object(Bucket=bucket, Key="k", Body=b"x")
    path = tree / bucket / "k"
    record = bytearray(os.getxattr(path, "user.twintree"))
    record[0] = 2
    os.setxattr(path, "user.twintree", bytes(record))
    done = command.seal(tree, bucket)
    assert done["skipped"] == 1 and "1 recorded by a later version" in done["text"], done
    assert os.getxattr(path, "user.twintree") == bytes(record)


def test_each_wrong_word_ends_with_64(tree):
    for words, named in (([tree, "--rate", "fast"], b"rate"), ([tree, "--rate", "0"], b"rate"), ([tree, "--threads", "0"], b"threads"),
                         ([tree, "no/such?bucket/", "--bogus"], b"--bogus"), ([tree, str(tree)], b"bucket's name"), ([], b"ROOT")):
        done = command.run("seal", *words)
        assert done.returncode == 64 and named in done.stderr, (words, done)
    done = command.run("seal", tree, "nowhere")
    assert done.returncode == 1 and b"does not exist" in done.stderr, done
    assert os.listdir(tree) == []
