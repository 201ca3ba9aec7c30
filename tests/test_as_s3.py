"""`twintree doctor --as-s3`: what it tells of a tree before it is served is what S3 then shows of it, and it leaves no trace."""

import json
import os
import pathlib
import shutil
import socket

import pytest
from lib import command, s3, server, tree as trees


@pytest.fixture
def odd(tree):
    """A tree that nobody served yet, with one of everything that there is something to say of."""
    top = tree / "photos"
    (top / "sub").mkdir(parents=True)
    (top / "plain").write_bytes(b"plain")
    (top / "sub" / "README").write_bytes(b"1")
    (top / "sub" / "readme").write_bytes(b"2")
    os.link(top / "plain", top / "other-name")
    with open(top / "sparse", "wb") as file:
        file.truncate(1 << 20)
    with open(os.fsencode(top) + b"/not-utf8-\xff", "wb") as file:
        file.write(b"x")
    (top / "line\nfeed").write_bytes(b"x")
    (top / "empty").mkdir()
    (top / "lost+found").mkdir()
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(top / "socket"))
    os.symlink("plain", top / "link")
    os.symlink("sub", top / "link-to-a-folder")
    os.symlink("nowhere", top / "dangling")
    os.symlink("/etc/hostname", top / "outside")
    long = top
    for _ in range(5):
        long = long / ("d" * 250)
    long.mkdir(parents=True)
    (long / "too-long").write_bytes(b"x")
    (tree / "a file at the top").write_bytes(b"x")
    (tree / "no bucket's name").mkdir()
    (tree / "UPPER").mkdir()
    return tree


WANTED = {
    "not-a-bucket": ["no bucket's name"], "outside-of-buckets": ["a file at the top"], "kept-back": ["photos/lost+found"],
    "link-to-no-object": ["photos/dangling", "photos/link-to-a-folder", "photos/outside"], "special": ["photos/fifo", "photos/socket"],
    "old-bucket-name": ["UPPER"], "not-utf8": ["photos/not-utf8-\ufffd"], "control-character": ["photos/line\nfeed"],
    "alike-but-case": ["photos/sub"], "sparse": ["photos/sparse"], "hard-linked": ["photos/other-name", "photos/plain"],
    "empty-folder": ["photos/empty"], "key-too-long": ["photos/" + "/".join(["d" * 250] * 5) + "/too-long"],
}


def asked(tree, code=0):
    """What it tells in JSON lines: the paths by remark, and the summary."""
    done = command.run("doctor", tree, "--as-s3", "--format", "jsonl")
    assert done.returncode == code, done
    *rows, last = [json.loads(line) for line in done.stdout.splitlines()]
    found = {}
    for row in rows:
        found.setdefault(row["remark"], []).append(str(pathlib.Path(row["path"]).relative_to(tree)))
        assert row["no_object"] == (row["remark"] in NO_OBJECTS), row
    return {remark: sorted(paths) for remark, paths in found.items()}, last


NO_OBJECTS = {"not-a-bucket", "outside-of-buckets", "kept-back", "link-to-no-object", "special", "key-too-long", "unread"}


def test_each_oddity_is_told_once_and_nothing_else_is(odd):
    trees.quieten(odd)
    before = trees.picture(odd)
    found, last = asked(odd)
    assert found == WANTED
    assert last["remarks"] == {remark: len(paths) for remark, paths in WANTED.items()}
    assert trees.picture(odd) == before, "it looks, and leaves no trace"


def test_what_it_counts_is_what_s3_then_lists(odd, daemon):
    _, last = asked(odd)
    client = s3.client(daemon(odd).url)
    names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    assert last["buckets"] == len(names) == 2
    listed = s3.listed(client, "photos")
    assert (last["objects"], last["bytes"]) == (len(listed), sum(entry["Size"] for entry in listed.values()))
    assert {"plain", "link", "sparse", "line\nfeed"} < set(listed) and not {"fifo", "dangling", "outside"} & set(listed)


def test_a_tree_that_was_served_is_told_as_one_that_was_not(served, client, bucket, tree):
    client.put_object(Bucket=bucket, Key="a/b", Body=b"x")
    served.stop()
    found, last = asked(tree)
    assert (found, last["objects"]) == ({}, 1), "our own directory is no oddity"
    (tree / bucket / "a" / ".twintree").mkdir()
    assert asked(tree)[0] == {"kept-back": [f"{bucket}/a/.twintree"]}


def test_a_person_reads_what_it_means_and_a_few_examples(odd):
    for number in range(5):
        os.symlink("nowhere", odd / "photos" / f"also-dangling-{number}")
    done = command.run("doctor", odd, "--as-s3")
    assert done.returncode == 0, done
    said = done.stdout.decode()
    assert said.startswith(f"{odd} as S3: 2 buckets, 8 objects, ") and "\nNo objects:\n" in said and "\nObjects, but mind:\n" in said
    assert "\n        8  links that lead nowhere" in said and "and 5 more (--format jsonl names all)" in said
    assert sum("dangling" in line for line in said.splitlines()) == 3 and "line\\nfeed" in said


def test_what_cannot_be_read_is_told_and_ends_with_1():
    if os.geteuid() != 0:
        pytest.skip("giving up privileges needs root")
    with trees.Public() as folder:
        binary = shutil.copy(server.BINARY, os.path.join(folder, "twintree"))
        bucket = pathlib.Path(folder) / "tree" / "bucket"
        (bucket / "closed").mkdir(parents=True)
        for name in ("open", "secret", "closed/in"):
            (bucket / name).write_bytes(b"x")
        (bucket / "secret").chmod(0o600)
        (bucket / "closed").chmod(0o700)
        done = command.run("doctor", bucket.parent, "--as-s3", "--format", "jsonl", wrapper=command.NOBODY, binary=binary)
    *rows, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(pathlib.Path(row["path"]).name for row in rows if row["remark"] == "unread") == ["closed", "secret"]
    assert done.returncode == 1 and b"2 entries could not be read" in done.stderr and last["objects"] == 2, done


@pytest.mark.parametrize(("words", "code", "says"), [
    (["nowhere", "--as-s3"], 66, "is no directory"), ([".", "--as-s3", "--format", "xml"], 64, "text or jsonl"), ([".", "--format", "jsonl"], 64, "--as-s3"),
])
def test_what_cannot_be_asked_is_said(words, code, says):
    done = command.run("doctor", *words)
    assert done.returncode == code and says in done.stderr.decode(), done
