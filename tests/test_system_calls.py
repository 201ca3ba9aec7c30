"""How many system calls an answer takes: they are most of what a small object costs, and only strace sees one come back."""

import os
import time

import pytest
from lib import s3, server, tables, trace, wire

ALLOWED = {"GET": 6, "HEAD": 5, "PUT": 15}
"""From reading the request to sending the answer, waiting for it aside: what README and bench/RESULTS.md promise."""
QUIET = 0.2
"""Seconds after which every clock has ticked, so that what is known of a file may be kept."""
ASIDE = ("epoll_wait", "epoll_pwait", "futex", "sched_yield", "madvise", "mmap", "munmap", "mprotect", "brk", "fcntl", "restart_syscall")
"""What the runtime and the allocator do between requests, and a debug build when it closes a descriptor; a
wait that goes on after strace has come."""


@pytest.mark.parametrize("method, place", [*((method, "root") for method in ALLOWED), *((method, "mapped") for method in ALLOWED)])
def test_an_answer_takes_no_more_system_calls_than_it_did(daemon, tree, random, tmp_path, method, place):
    folder, config = tree / "bucket-one", tmp_path / "twintree.toml"
    if place == "mapped":
        folder = tmp_path / "elsewhere"
        config.write_text(f'[buckets.bucket-one]\npath = "{folder}"\n')
    else:
        config.touch()
    folder.mkdir()
    one = daemon(tree, "--durability", "relaxed", "--log", "warn", "--watch", "off", "--seal", "off", "--config", config)
    client = s3.client(one.url)
    body = random.bytes(4096)
    client.put_object(Bucket="bucket-one", Key="folder/object", Body=body)
    changed = os.stat(folder / "folder" / "object").st_ctime
    server.wait_until(lambda: time.time() - changed > QUIET, "the object is quiet")
    answers = []
    with wire.Connection(one) as connection:
        def ask(new):
            key = f"/bucket-one/folder/{new if method == 'PUT' else 'object'}"
            answers.append(connection.ask(method, key, body=body if method == "PUT" else b""))
        for new in ("first", "second", "third"):
            ask(new)
        with trace.Trace(one, tmp_path / "strace", calls="all", shown=300) as traced:
            ask("fourth")
    assert [answer.status for answer in answers] == [200] * 4
    took = calls_of_one_answer(traced.events, f"{method} /")
    tables.say(f"system calls of a {method} of 4 KiB, {place}", [("calls", "allowed"), (len(took), ALLOWED[method])])
    assert len(took) <= ALLOWED[method], [event.name for event in took]
    assert len(took) > 3, "strace has seen the answer"


def calls_of_one_answer(events, request):
    """From reading the request up to the answer, by whatever thread: nothing else is going on."""
    asked = next(event for event in events if event.name in ("recvfrom", "read", "readv") and request in event.words)
    since = [event for event in events if event.begun >= asked.begun and event.name not in ASIDE]
    sent = next(at for at, event in enumerate(since) if event.name in ("writev", "write", "sendto", "sendmsg") and "HTTP/1.1 200" in event.words)
    return since[:sent + 1]


def test_a_common_prefix_takes_the_first_names_of_its_folder_and_not_all(daemon, tree, tmp_path):
    """That something lies below it is all that a listing needs to know: a page costs what it shows."""
    folder = tree / "bucket-one" / "folder"
    folder.mkdir(parents=True)
    for number in range(1000):
        (folder / f"file-{number:04}").touch()
    one = daemon(tree, "--watch", "off", "--seal", "off")
    with wire.Connection(one) as connection, trace.Trace(one, tmp_path / "strace", calls="getdents64") as traced:
        answer = connection.ask("GET", "/bucket-one?delimiter=%2F&list-type=2")
    assert answer.body.count(b"<Prefix>folder/</Prefix>") == 1
    read = sum(int(event.result) for event in traced.events if f"{folder}>" in event.words)
    assert 0 < read <= 4096, traced.events


def test_a_page_of_files_that_are_known_takes_one_call_for_each(daemon, tree, tmp_path):
    """And each of them takes it: no other sign of a change is as sure."""
    folder = tree / "bucket-one" / "folder"
    folder.mkdir(parents=True)
    files = [folder / f"file-{number:04}" for number in range(200)]
    for file in files:
        file.touch()
    changed = max(os.stat(file).st_ctime for file in files)
    server.wait_until(lambda: time.time() - changed > QUIET, "the files are quiet")
    one = daemon(tree, "--watch", "off", "--seal", "off")
    target = "/bucket-one?list-type=2&prefix=folder%2F"
    with wire.Connection(one) as connection:
        first = connection.ask("GET", target).body
        with trace.Trace(one, tmp_path / "strace", calls="all", shown=300) as traced:
            assert connection.ask("GET", target).body == first
    took = sorted((file.name, event.name) for event in traced.events for file in files if f'"{file.name}"' in event.words)
    assert took == [(file.name, "statx") for file in files]
    # Linux: 464 is getxattrat, of which an older strace does not know the name (nor what it is asked).
    assert not [event for event in traced.events if event.name in ("getxattrat", "syscall_0x1d0")]


def test_what_lies_in_the_xattrs_of_a_quiet_file_is_asked_for_once(daemon, tree, random, tmp_path):
    """Also on the whole way, which a range goes."""
    one = daemon(tree, "--log", "warn", "--watch", "off", "--seal", "off")
    client = s3.client(one.url)
    client.create_bucket(Bucket="bucket-one")
    client.put_object(Bucket="bucket-one", Key="k", Body=random.bytes(4096))
    changed = os.stat(tree / "bucket-one" / "k").st_ctime
    server.wait_until(lambda: time.time() - changed > QUIET, "the object is quiet")
    for _ in range(3):
        assert len(s3.body(client, "bucket-one", "k", Range="bytes=1-10")) == 10
    with trace.Trace(one, tmp_path / "strace", calls="fgetxattr,openat2") as traced:
        s3.body(client, "bucket-one", "k", Range="bytes=1-10")
    assert [event.name for event in traced.events].count("openat2") > 0, "strace has seen it"
    assert not [event for event in traced.events if event.name == "fgetxattr"], traced.events
