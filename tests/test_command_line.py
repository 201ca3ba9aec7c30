"""The command line and the first start: what is printed works as it is pasted, what is wrong ends with its own code and word."""

import itertools
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import pytest
from lib import environment, s3, server, tools, tree as trees, wire

USAGE = 64
FAILED = 1
UNAVAILABLE = 69
KEYS = {"TWINTREE_ACCESS_KEY": "A" * 8, "TWINTREE_SECRET_KEY": "b" * 12}


def run(*words, environment=None, seconds=20):
    """Runs the binary to its end, with nothing of this process's environment but PATH."""
    variables = {"PATH": os.environ["PATH"], **(KEYS if environment is None else environment)}
    return subprocess.run([server.BINARY, *map(str, words)], capture_output=True, text=True, timeout=seconds, env=variables)


# The first start.

def first_start(daemon, tree, *flags, **options):
    """A daemon that made its key, and the sections of what it printed, by client."""
    one = daemon(tree, *flags, keys=False, **options)
    server.wait_until(lambda: any("lsd twintree:" in line for line in one.output), "the last snippet")
    text = "\n".join(one.output)
    sections = {}
    for part in text.split("\n# ")[1:]:
        name, _, body = part.partition("\n")
        sections[name] = body
    return one, sections


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", ["boto3", "aws-cli", "rclone"])
def test_each_snippet_works_as_it_is_pasted(daemon, tree, tmp_path, authority, scheme, name):
    (tree / "there-already").mkdir()
    secure = ("--tls-cert", authority.certificate, "--tls-key", authority.key) if scheme == "https" else ()
    _, sections = first_start(daemon, tree, *secure)
    home = tmp_path / "home"
    home.mkdir()
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {"PATH": path, "HOME": str(home), "RCLONE_CONFIG": str(home / "rclone.conf")}
    if scheme == "https":  # the test's authority stands for one that the machine knows
        variables |= {"AWS_CA_BUNDLE": authority.ca, "RCLONE_CA_CERT": authority.ca}
    script, interpreter = sections[name], ["sh", "-e"]
    if name == "boto3":
        interpreter = [sys.executable, "-i"]  # as somebody pastes into the prompt
    if name == "rclone" and shutil.which("rclone", path=path) is None:
        pytest.skip("rclone is missing")
    done = subprocess.run(interpreter, input=script + "\n", capture_output=True, text=True, timeout=60, env=variables, cwd=home)
    assert done.returncode == 0, done
    assert "Error" not in done.stderr, done
    assert ("hello.txt" if name == "boto3" else "there-already") in done.stdout, done


def test_listening_everywhere_prints_an_address_that_can_be_reached(daemon, tree):
    one, sections = first_start(daemon, tree, listen=("0.0.0.0:0",))
    assert one.url.startswith("http://0.0.0.0:")
    assert f"http://127.0.0.1:{one.port}" in sections["boto3"] and "0.0.0.0" not in sections["boto3"]


def test_a_socket_alone_prints_the_key_and_no_snippet_that_cannot_work(daemon, tree, tmp_path):
    one = daemon(tree, keys=False, listen=(f"unix:{tmp_path / 's3.sock'}",))
    server.wait_until(lambda: any("secret key" in line for line in one.output), "the key")
    one.stop()
    text = "\n".join(one.output)
    assert f"endpoint    unix:{tmp_path / 's3.sock'}" in text
    assert "boto3.client" not in text


def test_two_first_starts_at_once_end_with_one_key(daemon, tree, tmp_path):
    state = tmp_path / "state"
    processes = [subprocess.Popen([server.BINARY, "serve", str(tree), "--listen", "127.0.0.1:0", "--state-dir", str(state)],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={"PATH": os.environ["PATH"]})
                 for _ in range(4)]
    urls = [process.stdout.readline().split()[-1] for process in processes]
    access, secret = [line for line in (state / "credentials").read_text().splitlines() if not line.startswith("#")]
    for url in urls:
        s3.client(url, access_key=access, secret_key=secret).list_buckets()
    for process in processes:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()
    assert os.listdir(state) == ["credentials"]


# Where a setting comes from.

def test_an_empty_variable_counts_as_not_set(daemon, tree):
    empty = dict.fromkeys(("TWINTREE_DOMAIN", "TWINTREE_DURABILITY", "TWINTREE_READ_ONLY", "TWINTREE_MAX_CONNECTIONS",
                           "TWINTREE_CONFIG", "TWINTREE_ACCESS_KEY_FILE", "TWINTREE_LISTEN"), "")
    one = daemon(tree, environment=empty)
    s3.client(one.url).create_bucket(Bucket="bucket-one")


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_a_switch_in_the_environment_takes_the_usual_words(daemon, tree, value):
    one = daemon(tree, environment={"TWINTREE_READ_ONLY": value})
    s3.refused(403, "AccessDenied", s3.client(one.url).create_bucket, Bucket="bucket-one")


def test_a_switch_before_the_directory_leaves_the_directory_alone(tree, tmp_path):
    """`twintree serve --read-only DIR` must not take DIR for the switch's value."""
    taken = socket.socket()
    with taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("serve", "--read-only", tree, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == UNAVAILABLE and "in use" in done.stderr, done


def test_a_credentials_flag_wins_over_keys_in_the_environment(daemon, tree, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("FROMTHEFLAG\nsecret-from-the-flag\n")
    one = daemon(tree, "--credentials", keys)  # the environment has keys too
    s3.client(one.url, access_key="FROMTHEFLAG", secret_key="secret-from-the-flag").list_buckets()
    s3.refused(403, "InvalidAccessKeyId", s3.client(one.url).list_buckets)
    one = daemon(tree, environment={"TWINTREE_CREDENTIALS": str(keys)})
    s3.client(one.url).list_buckets()


def test_a_domain_may_be_said_with_its_port(daemon, tree):
    """Beside it, a request whose Host has another port, or none, is virtual-host style too."""
    one = daemon(tree, "--domain", "s3.example.net:9000")
    client = s3.client(one.url)
    client.create_bucket(Bucket="bucket-one")
    client.put_object(Bucket="bucket-one", Key="k", Body=b"x")
    for host in ("bucket-one.s3.example.net", "bucket-one.s3.example.net:9000", "BUCKET-ONE.S3.example.net:1"):
        with wire.Connection(one) as connection:
            connection.host = host
            assert connection.ask("GET", "/k").body == b"x", host


# What is wrong, and what is asked.

def test_each_wrong_word_ends_with_64_and_names_itself(tree, tmp_path):
    unknown, wrong = tmp_path / "unknown.toml", tmp_path / "wrong.toml"
    unknown.write_text('listn = "127.0.0.1:0"\n')
    wrong.write_text("listen = 5\n")
    cases = [
        (["serve"], "no directory"), (["serve", tree, "--bogus"], "--bogus"), (["bogus"], "bogus"),
        (["serve", tree, "--durability", "maybe"], "durability"), (["serve", tree, "--keys", "all"], "keys"),
        (["serve", tree, "--listen", "nowhere"], "nowhere"), (["serve", tree, "--listen", "unix:"], "unix:"),
        (["serve", tree, "--domain", "http://x"], "domain"), (["serve", tree, "--max-put", "5X"], "max-put"),
        (["serve", tree, "--header-timeout", "soon"], "header-timeout"), (["serve", tree, "--tls-cert", "x"], "tls-key"),
        (["serve", tree, "--trusted-proxy", "proxy"], "trusted-proxy"), (["serve", tree, "--log", "a=["], "log"),
        (["serve", tree, "--config", unknown], "listn"), (["serve", tree, "--config", wrong], "list of texts"),
        (["serve", tree, "--config", tmp_path / "none"], "none"), (["serve", tree, "--credentials", tmp_path / "none"], "none"),
    ]
    for words, named in cases:
        done = run(*words)
        assert done.returncode == USAGE and named in done.stderr, (words, done)
        assert "panicked" not in done.stderr
    half = run("serve", tree, environment={"TWINTREE_ACCESS_KEY": "AAAAAAAA"})
    assert half.returncode == USAGE and "TWINTREE_SECRET_KEY" in half.stderr, half
    served = run("serve", tree, "--state-dir", tree / "state", environment={})
    assert served.returncode == USAGE and "state" in served.stderr, served
    assert os.listdir(tree) == []


def test_what_cannot_be_done_ends_with_1_and_says_why_once(tree, tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("x")
    for words, named in (
        (["serve", tree, "--listen", f"unix:{tmp_path}/gone/s"], "gone/s"),
        (["serve", tree, "--listen", "127.0.0.1:0", "--tls-cert", plain, "--tls-key", plain], "plain"),
        (["doctor", tmp_path / "gone"], "No such file"), (["inspect", tmp_path / "gone"], "No such file"),
    ):
        done = run(*words)
        assert done.returncode == FAILED and named in done.stderr, (words, done)
        assert done.stderr.count("os error") <= 1 and len(done.stderr.splitlines()) == 1, done


def test_help_names_every_setting_and_where_keys_come_from(tmp_path):
    done = run("serve", "--help")
    assert done.returncode == 0
    for word in ("--listen", "127.0.0.1:9000", "--durability", "--keys", "--domain", "--tls-cert", "--read-only", "--config",
                 "TWINTREE_ACCESS_KEY", "TWINTREE_SECRET_KEY_FILE", "--drain-timeout", "--hide"):
        assert word in done.stdout, word
    assert KEYS["TWINTREE_SECRET_KEY"] not in done.stdout
    for words in (["--help"], ["doctor", "--help"], ["inspect", "--help"], ["--version"]):
        assert run(*words).returncode == 0


def test_inspect_says_in_words_what_is_recorded(daemon, tree):
    one = daemon(tree)
    client = s3.client(one.url)
    client.create_bucket(Bucket="bucket")
    sent = client.put_object(Bucket="bucket", Key="dir/f.txt", Body=b"hello", ContentType="text/plain", ChecksumAlgorithm="SHA256", Metadata={"colour": "red"})
    told = run("inspect", tree / "bucket/dir/f.txt")
    assert told.returncode == 0, told
    for line in (f'ETag now     {sent["ETag"]}, the MD5 of the content', f'checksum     SHA256 {sent["ChecksumSHA256"]}, of the full object',
                 "type         text/plain", "metadata     colour: red"):
        assert line in told.stdout.splitlines(), (line, told.stdout)
    assert re.search(r"^mtime now +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{9} UTC$", told.stdout, re.MULTILINE), told.stdout
    made = run("inspect", tree / "bucket/dir")
    assert "made by      twintree" in made.stdout, made.stdout


# What a fresh clone needs.

def test_what_the_tests_need_of_the_system_is_what_ci_installs():
    listed = re.search(r"wanted=\((.*?)\)", (server.ROOT / ".ci" / "run").read_text()).group(1).split()
    needed = {package for _, package, _ in environment.WANTED if not package.startswith("golang")}
    assert needed <= set(listed), needed - set(listed)


# Addresses that cannot be had.

@pytest.mark.parametrize("flag", ["--listen", "--admin"])
@pytest.mark.parametrize(("address", "says"), [("taken", "stop what listens there, or name another address with"), ("192.0.2.1:9", "this machine has no such address")])
def test_an_address_that_cannot_be_had_is_named_with_what_helps(tree, flag, address, says):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = {"--listen": "127.0.0.1:0"} | {flag: f"127.0.0.1:{taken.getsockname()[1]}" if address == "taken" else address}
        done = run("serve", tree, *itertools.chain(*words.items()))
    assert done.returncode == UNAVAILABLE, done
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"twintree: cannot listen on {words[flag]}: ") and says in last and last.count("os error") == 1, done


# Surroundings in which nothing can be served: one sentence with its remedy, and nothing half started.

SHIM = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *time)
{
    int (*next)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = next(id, time);
    if (id == CLOCK_REALTIME)
        time->tv_sec = 1000;
    return result;
}
"""
NO_DEVICE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev && exec "$0" "$@"')


def refused(*words, wrapper=(), preload=None):
    """What it says where it does not start, in one line; it ends with 69 and has served nobody."""
    variables = {"PATH": os.environ["PATH"], **KEYS, **({"LD_PRELOAD": str(preload)} if preload else {})}
    done = subprocess.run([*wrapper, server.BINARY, *map(str, words)], capture_output=True, text=True, timeout=20, env=variables)
    assert (done.returncode, done.stdout) == (UNAVAILABLE, ""), done
    line, = done.stderr.splitlines()
    assert line.startswith("twintree: "), done
    return line


@pytest.mark.parametrize("how", ["serve", "mount"])
def test_too_few_open_files_are_told_before_anything_starts(tree, tmp_path, how):
    (tmp_path / "point").mkdir()
    words = ["serve", tree, "--listen", "127.0.0.1:0", "--state-dir", tmp_path / "state"] if how == "serve" else ["mount", tree, tmp_path / "point"]
    line = refused(*words, wrapper=("prlimit", "--nofile=20:20"))
    assert "no more than 20 files may be open at once, and 256 at least are needed: raise the limit (ulimit -n 4096" in line
    assert list(tree.iterdir()) == [] and not (tmp_path / "state").exists()


def test_a_missing_dev_fuse_is_told_before_anything_starts(tree, tmp_path):
    tools.need("unshare")
    (tmp_path / "point").mkdir()
    line = refused("serve", tree, "--listen", "127.0.0.1:0", "--mount", tmp_path / "point", "--state-dir", tmp_path / "state", wrapper=NO_DEVICE)
    assert "/dev/fuse cannot be opened" in line and "load the module fuse" in line
    assert list(tree.iterdir()) == [] and not (tmp_path / "state").exists()


def test_a_clock_that_was_never_set_is_told_before_anything_starts(tree, tmp_path):
    tools.need("cc")
    (tmp_path / "clock.c").write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "clock.so", tmp_path / "clock.c", "-ldl"], check=True)
    line = refused("serve", tree, "--listen", "127.0.0.1:0", "--state-dir", tmp_path / "state", preload=tmp_path / "clock.so")
    assert "the clock stands before the year 2020" in line and "timedatectl set-ntp true" in line
    assert list(tree.iterdir()) == [] and not (tmp_path / "state").exists()


# What doctor tells of the machine.

def doctor(*words, wrapper=()):
    """What it found: (grade, what it means) by what was looked at; of several alike all, in order."""
    done = subprocess.run([*wrapper, server.BINARY, "doctor", *map(str, words)], capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]})
    assert (done.returncode, done.stderr) == (0, ""), done
    found = {}
    for line in done.stdout.partition("\n\n")[0].splitlines():
        found.setdefault(line[7:31].strip(), []).append((line[:6].strip(), line[32:]))
    return found


def test_doctor_says_which_addresses_are_free_taken_or_not_here(tree, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = tmp_path / "twintree.toml"
        config.write_text(f'listen = ["127.0.0.1:{port}", "192.0.2.1:9", "127.0.0.1:0", "unix:{tmp_path}/s3", "unix:{tmp_path}/none/s3"]\nadmin = "127.0.0.1:{port}"\n')
        addresses = doctor(tree, "--config", config)["address"]
    assert [grade for grade, _ in addresses] == ["weak", "bad", "ok", "ok", "bad", "weak"], addresses
    assert f"ss -ltnp 'sport = :{port}'" in addresses[0][1] and "this machine has no such address" in addresses[1][1]
    assert addresses[2][1] == "127.0.0.1:0 is free" and "with --admin" in addresses[5][1]
    assert not (tmp_path / "s3").exists(), "it only looks"


def test_doctor_says_what_is_wrong_with_the_settings_and_goes_on(tree, tmp_path):
    config = tmp_path / "twintree.toml"
    config.write_text('durabilty = "strict"\n')
    found = doctor(tree, "--config", config)
    (grade, meaning), = found["settings"]
    assert grade == "bad" and 'did you mean "durability"?' in meaning
    assert found["rights"][0][0] == "ok" and found["clock"][0][0] in ("ok", "weak", "?")


def test_doctor_says_that_the_clock_was_never_set(tree, tmp_path):
    tools.need("cc")
    (tmp_path / "clock.c").write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "clock.so", tmp_path / "clock.c", "-ldl"], check=True)
    (grade, meaning), = doctor(tree, wrapper=("env", f"LD_PRELOAD={tmp_path}/clock.so"))["clock"]
    assert grade == "bad" and "before the year 2020" in meaning


def test_doctor_says_what_its_user_may_not_touch():
    if os.geteuid() != 0:
        pytest.skip("giving up privileges needs root")
    tools.need("setpriv")
    with trees.Public() as folder:
        binary, tree = shutil.copy(server.BINARY, os.path.join(folder, "twintree")), pathlib.Path(folder) / "tree"
        for name in ("open", "closed"):
            (tree / name).mkdir(parents=True)
            (tree / name).chmod(0o777 if name == "open" else 0o700)
        tree.chmod(0o777)
        config = pathlib.Path(folder) / "twintree.toml"
        config.write_text("read-only = false\n")
        config.chmod(0o644)
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

        def rights():
            done = subprocess.run([*nobody, binary, "doctor", tree, "--read-only", "--config", config], capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]})
            return next(line for line in done.stdout.splitlines() if " rights " in line)

        line = rights()
        assert line.startswith("weak") and "user 65534 may not read and write 1 of 2 directories" in line and f"{tree}/closed among them" in line
        tree.chmod(0o755)
        line = rights()
        assert line.startswith("bad") and f"namei -l {tree} shows why" in line


def test_doctor_says_how_the_mount_stands(daemon, tree, tmp_path):
    point = tmp_path / "point"
    config = tmp_path / "twintree.toml"
    config.write_text(f'mount = "{point}"\n')

    def stands():
        (grade, meaning), = doctor(tree, "--read-only", "--config", config)["mount"]
        return grade, meaning

    assert doctor(tree, "--read-only")["mount"] == [("ok", "none is asked for; it could be had")]
    assert stands()[0] == "bad" and "mkdir -p it first" in stands()[1]
    point.mkdir()
    assert stands() == ("ok", f"nothing stands on {point}; serve mounts there")
    one = daemon(tree, "--mount", point)
    assert stands() == ("ok", f"a twintree stands on {point}")
    one.kill()
    try:
        grade, meaning = stands()
    finally:
        subprocess.run(["umount", "-l", point], check=True)
    assert grade == "bad" and f"umount -l {point}" in meaning
    (grade, meaning), = doctor(tree, "--read-only", "--config", config, wrapper=NO_DEVICE)["mount"]
    assert grade == "bad" and "load the module fuse" in meaning
