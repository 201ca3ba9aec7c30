"""`twintree inventory`: what it prints is what S3 answers, of everything, in order, in little memory, and it leaves no trace."""

import datetime
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest
from lib import command, s3, server, tables, tree as trees
from lib.aftermath import crc64

SMALL, LARGE = 10_000, 100_000
"""Keys of which the memory is compared."""
SLACK = 4096
"""KiB that it may grow from the one to the other: what the allocator and the readers' threads move it by."""

KEYS = ["a", "a/b", "a-b", "a.b", "a0", "x//y", ".", "..", "d/", "d/e", "body/", "l" * 300, "comma, and \"quote\"", "line\nfeed\r", " space ",
        "ä/ö/ü", "\U0001f600", "\u2028", "deep/" * 20 + "end"]


@pytest.fixture
def filled(client, bucket, tree, random):
    """A bucket with keys that a path can hold and that none can, files that nobody PUT, and each state of a record."""
    for key in KEYS:
        body = b"" if key == "d/" else random.bytes(1 + len(key))
        client.put_object(Bucket=bucket, Key=key, Body=body)
    for name in ("touched", "changed"):
        client.put_object(Bucket=bucket, Key=name, Body=random.bytes(500))
    top = tree / bucket
    (top / "by-hand").write_bytes(random.bytes(700))
    (top / "sub").mkdir()
    (top / "sub" / "by-hand").write_bytes(b"")
    with open(os.fsencode(top) + b"/not-utf8-\xff\xe4", "wb") as file:
        file.write(random.bytes(3))
    os.symlink("by-hand", top / "link")
    os.symlink("nowhere", top / "dangling")
    command.grows_old(top / "touched")
    with open(top / "changed", "ab") as file:
        file.write(random.bytes(9))
    return top


# What it prints.

def test_every_object_is_there_in_listing_order_as_list_and_head_show_it(filled, client, bucket, tree):
    rows = command.inventory(tree, bucket)
    listed = s3.listed(client, bucket)
    assert [row["key"] for row in rows] == list(listed), "every key, in listing order"
    assert set(KEYS) < set(listed) and len(rows) == len(KEYS) + 6
    for row in rows:
        entry = listed[row["key"]]
        assert (int(row["size"]), f'"{row["etag"]}"') == (entry["Size"], entry["ETag"]), row
        head = client.head_object(Bucket=bucket, Key=row["key"])
        assert head["ETag"] == f'"{row["etag"]}"', row
        moment = datetime.datetime.fromisoformat(row["mtime"][:19] + "+00:00")
        assert moment == head["LastModified"], row


def test_each_checksum_is_that_of_the_bytes_and_there_is_one_exactly_where_the_record_is_valid(filled, client, bucket, tree):
    rows = command.inventory(tree, bucket)
    for row in rows:
        assert bool(row["crc64nvme"]) == (row["state"] == "valid"), row
        if row["crc64nvme"]:
            assert row["crc64nvme"] == crc64(s3.body(client, bucket, row["key"])), row


@pytest.mark.needs("xattrs")
def test_each_state_is_named_and_only_a_valid_record_shows_its_etag(filled, bucket, tree):
    rows = {row["key"]: row for row in command.inventory(tree, bucket)}
    assert {key: rows[key]["state"] for key in ("a", "d/", "x//y", "touched", "changed", "by-hand", "link")} == {
        "a": "valid", "d/": "valid", "x//y": "valid", "touched": "unverified", "changed": "stale", "by-hand": "none", "link": "none"}
    for row in rows.values():
        derived = re.fullmatch("[0-9a-f]{32}-1", row["etag"]) is not None
        assert derived == (row["state"] != "valid"), row


def test_the_mtime_is_the_files_own_to_the_nanosecond_also_before_1970(tree):
    (tree / "bucket").mkdir()
    for name, moment in (("now", 1_709_210_096_123_456_789), ("before", -1), ("zero", 0)):
        (tree / "bucket" / name).write_bytes(b"x")
        os.utime(tree / "bucket" / name, ns=(0, moment))
    rows = command.inventory(tree, "bucket")
    shown = {row["key"]: row["mtime"] for row in rows}
    for key, text in shown.items():
        kept = (tree / "bucket" / key).stat().st_mtime_ns
        second = datetime.datetime.fromtimestamp(kept // 10**9, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
        assert text == f"{second}.{kept % 10**9:09}Z"
    assert shown["now"] == "2024-02-29T12:34:56.123456789Z" or (tree / "bucket" / "now").stat().st_mtime_ns % 1000 == 0


def test_both_formats_say_the_same(filled, bucket, tree):
    as_csv = command.run("inventory", tree, bucket, "--format", "csv")
    as_json = command.run("inventory", tree, bucket, "--format", "jsonl")
    assert as_csv.returncode == as_json.returncode == 0
    assert command.rows_of_csv(as_csv.stdout) == command.rows_of_jsonl(as_json.stdout)
    assert as_csv.stdout.startswith(b"key,size,mtime,etag,crc64nvme,state\r\n")
    assert as_json.stdout.count(b"\n") == as_csv.stdout.count(b"\r\n") - 1, "one line an object, and no line break inside of one"
    assert as_csv.stderr == as_json.stderr == b""


def test_names_that_are_not_utf8_are_the_keys_that_s3_shows_and_can_be_asked_for_either_way(filled, client, bucket, tree):
    key = "not-utf8-\U0010feff\U0010fee4"
    assert s3.body(client, bucket, key) == (open(os.fsencode(filled) + b"/not-utf8-\xff\xe4", "rb")).read()
    for part in (f"{bucket}/not-utf8-".encode(), f"{bucket}/not-utf8-".encode() + b"\xff", f"{bucket}/{key}".encode()):
        done = command.run("inventory", tree, part)
        assert [row["key"] for row in command.rows_of_csv(done.stdout)] == [key], part


def test_a_prefix_is_any_beginning_of_keys(filled, bucket, tree):
    whole = command.inventory(tree, bucket)
    for prefix in ("a", "a/", "x/", "x//", "sub/by", "d", "d/", "li", "zzz", "deep/deep/", "body/"):
        assert command.inventory(tree, f"{bucket}/{prefix}") == [row for row in whole if row["key"].startswith(prefix)], prefix
    assert command.inventory(tree, f"{bucket}/") == whole


def test_hidden_and_reserved_names_stay_hidden(filled, bucket, tree, tmp_path):
    (filled / ".DS_Store").write_bytes(b"x")
    settings = tmp_path / "twintree.toml"
    settings.write_text(f'root = "{tree}"\nhide = [".DS_Store"]\n')
    for flags in (("--hide", ".DS_Store"), ("--config", settings)):
        keys = {row["key"] for row in command.inventory(tree, bucket, *flags)}
        assert ".DS_Store" not in keys and not any(key.startswith(".twintree") for key in keys) and "by-hand" in keys


# What it leaves alone.

def test_it_leaves_no_trace_in_the_tree(filled, bucket, tree):
    trees.quieten(tree)
    before = trees.picture(tree)
    for words in ([bucket], [f"{bucket}/a", "--format", "jsonl"]):
        assert command.run("inventory", tree, *words).returncode == 0
    assert trees.picture(tree) == before


def test_a_tree_that_no_gateway_ever_wrote_to_stays_as_it_is(tree):
    (tree / "photos" / "sub").mkdir(parents=True)
    (tree / "photos" / "sub" / "f").write_bytes(b"x")
    trees.quieten(tree)
    before = trees.picture(tree)
    assert [row["key"] for row in command.inventory(tree, "photos")] == ["sub/f"]
    assert trees.picture(tree) == before


# What goes wrong.

def test_what_cannot_be_read_is_named_and_the_rest_is_printed():
    if os.geteuid() != 0:
        pytest.skip("giving up privileges needs root")
    with trees.Public() as folder:
        binary = shutil.copy(server.BINARY, os.path.join(folder, "twintree"))
        bucket = os.path.join(folder, "tree", "bucket")
        os.makedirs(os.path.join(bucket, "closed"))
        for name in ("a", "secret\n", "closed/in", "z"):
            with open(os.path.join(bucket, name), "wb") as file:
                file.write(b"x")
        os.chmod(os.path.join(bucket, "secret\n"), 0o600)
        os.chmod(os.path.join(bucket, "closed"), 0o700)
        done = command.run("inventory", os.path.join(folder, "tree"), "bucket", wrapper=command.NOBODY, binary=binary)
    assert done.returncode == 1
    assert [row["key"] for row in command.rows_of_csv(done.stdout)] == ["a", "z"]
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 3 and "2 entries could not be read" in lines[-1], lines
    assert sorted(re.search('cannot read (".*"): ', line)[1] for line in lines[:-1]) == ['"closed/"', '"secret\\n"']


def test_who_reads_no_further_gets_no_complaint(tree):
    (tree / "bucket").mkdir()
    for number in range(2000):
        (tree / "bucket" / f"a-name-that-fills-a-pipe-{'x' * 200}-{number}").touch()
    for words in (["csv"], ["jsonl"]):
        process = command.start("inventory", tree, "bucket", "--format", *words)
        assert process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        process.stderr.close()
        assert (process.wait(60), said) == (0, b"")


def test_a_full_disk_below_the_output_is_a_failure(tree):
    (tree / "bucket").mkdir()
    (tree / "bucket" / "f").touch()
    with open("/dev/full", "wb") as full:
        done = subprocess.run([server.BINARY, "inventory", str(tree), "bucket"], stdout=full, stderr=subprocess.PIPE, timeout=60,
                              env=command.environment())
    assert done.returncode == 1 and b"standard output" in done.stderr and len(done.stderr.splitlines()) == 1, done


def test_each_wrong_word_ends_with_64_and_what_is_not_there_with_1(tree, tmp_path):
    (tree / "bucket").mkdir()
    for code, words, named in ((64, [tree, "bucket", "--format", "xml"], b"csv or jsonl"), (64, [tree, str(tree / "bucket")], b"bucket's name"),
                               (64, [tree], b"BUCKET"), (64, [tree, "bucket", "--verify", "no"], b"verify"),
                               (1, [tree, "nowhere"], b"does not exist"), (1, [tmp_path / "gone", "bucket"], b"No such file")):
        done = command.run("inventory", *words)
        assert done.returncode == code and named in done.stderr and done.stdout == b"", (words, done)


# What it is for.

@pytest.mark.needs("xattrs")
def test_a_copy_with_its_xattrs_compares_equal(filled, bucket, tree, tmp_path):
    command.seal(tree)
    before = command.inventory(tree, bucket)
    assert {row["state"] for row in before} == {"valid"}
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(tree), str(copy)], check=True)
    what = ("key", "size", "etag", "crc64nvme", "mtime")
    kept = [[row[name] for name in what] for row in before]
    # Equal size and mtime suffice, as for rsync; or the content is read once more.
    trusting = command.inventory(copy, bucket, "--verify", "mtime")
    assert [[row[name] for name in what] for row in trusting] == kept
    command.seal(copy)
    assert [[row[name] for name in what] for row in command.inventory(copy, bucket)] == kept
    (copy / bucket / "by-hand").write_bytes(b"something else")
    differing = [row["key"] for row, old in zip(command.inventory(copy, bucket), before) if row["etag"] != old["etag"]]
    assert differing == ["by-hand", "link"]


# What it takes.

def peak(root, part, count):
    """KiB of memory that an inventory of `count` keys took at most, looked at when its last lines are still to be taken."""
    process = command.start("inventory", root, part)
    lines, most = 0, 0
    with process, open(f"/proc/{process.pid}/status") as status:
        while piece := os.read(process.stdout.fileno(), 65536):
            lines += piece.count(b"\n")
            if lines < count * 0.98:  # from there on it may have ended
                status.seek(0)
                most = int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1])
    assert (process.returncode, lines) == (0, count + 1)
    return most


def test_memory_does_not_grow_with_the_number_of_keys(tree):
    # In memory, where a hundred thousand files are soon made.
    with tempfile.TemporaryDirectory(prefix="twintree-many-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tree) as folder:
        for number in range(LARGE // 1000):
            place = pathlib.Path(folder, "bucket", "small" if number < SMALL // 1000 else "large", f"{number:03}")
            place.mkdir(parents=True)
            for name in range(1000):
                os.close(os.open(place / f"file-{name:05}", os.O_CREAT | os.O_WRONLY))
        small, large = peak(folder, "bucket/small", SMALL), peak(folder, "bucket", LARGE)
    tables.say("inventory: memory", [("keys", "VmHWM KiB"), (SMALL, small), (LARGE, large)])
    assert large - small < SLACK, (small, large)
