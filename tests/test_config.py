"""`twintree config check|show`: what `serve` would make of its settings, and where each was said."""

import os
import pathlib
import subprocess
import tomllib

import pytest
from lib import command, server

DOCUMENTED = pathlib.Path(__file__).resolve().parent.parent / "packaging" / "twintree.toml"
USAGE, NO_INPUT = 64, 66
SECRET = "hush/hush+hush=hush-hush"


def run(*words, environment=None):
    """Runs the binary to its end, with no setting in the environment but these."""
    done = subprocess.run([server.BINARY, *map(str, words)], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                          env={**command.environment(), **(environment or {})})
    assert SECRET not in done.stdout + done.stderr
    return done


def shown(*words, environment=None):
    """What `config show` prints: values by name, and where each was said."""
    done = run("config", "show", *words, environment=environment)
    assert done.returncode == 0 and done.stderr == "", done
    sources = {}
    for line in done.stdout.partition("\n[")[0].splitlines():
        if " # " in line:
            setting, _, source = line.rpartition(" # ")
            sources[setting.lstrip("#").partition(" =")[0]] = source
    return tomllib.loads(done.stdout), sources, done.stdout


@pytest.fixture
def state(tmp_path):
    """A state directory that is not there yet, as flags."""
    return ["--state-dir", tmp_path / "state"]


# Showing.

def test_each_value_is_shown_with_its_source(tree, tmp_path, state):
    config = tmp_path / "twintree.toml"
    config.write_text('region = "file"\ndurability = "relaxed"\nhide = ["a", "b"]\nread-only = true\nmax-connections = 7\nseal = "off"\n'
                      '[buckets.photos]\netag = "crc64"\n["buckets"."with.dot"]\n')
    values, sources, _ = shown(tree, "--config", config, "--durability", "strict", "--listen", ":1", "--listen", "unix:/x", *state,
                               environment={"TWINTREE_SEAL": "all", "TWINTREE_DURABILITY": "relaxed", "TWINTREE_DOMAIN": "x.test,y.test",
                                            "TWINTREE_READ_ONLY": "no", "TWINTREE_WATCH": ""})
    file = f"file {config}"
    expected = {
        "root": (str(tree), "argument"), "durability": ("strict", "flag --durability"), "listen": ([":1", "unix:/x"], "flag --listen"),
        "seal": ("all", "environment TWINTREE_SEAL"), "domain": (["x.test", "y.test"], "environment TWINTREE_DOMAIN"),
        "read-only": (False, "environment TWINTREE_READ_ONLY"), "region": ("file", file), "hide": (["a", "b"], file),
        "max-connections": (7, file), "watch": ("on", "default"), "etag": ("md5", "default"), "max-put": ("5G", "default"),
    }
    assert {name: (values[name], sources[name]) for name in expected} == expected
    assert sources["tls-cert"] == sources["mount"] == sources["admin"] == "not set" and "tls-cert" not in values
    assert values["buckets"] == {"photos": {"etag": "crc64"}, "with.dot": {}}


def test_every_documented_setting_is_shown_in_its_place(tree, state):
    names = [line.lstrip("#").partition(" = ")[0] for line in DOCUMENTED.read_text().partition("\n#[")[0].splitlines()
             if line and line.lstrip("#")[0].islower() and not line.startswith("# ")]
    _, sources, _ = shown(tree, *state)
    assert list(sources) == names and len(names) > 30


def test_what_is_shown_serves_the_same(daemon, tree, tmp_path, state):
    _, _, text = shown(tree, "--region", "somewhere", "--admin", "127.0.0.1:0", *state)
    again = tmp_path / "again.toml"
    again.write_text(text)
    values, sources, second = shown("--config", again)
    assert values == tomllib.loads(text)
    assert sources["region"] == f"file {again}"
    one = daemon(tree, "--config", again)
    assert one.admin
    assert second.count("somewhere") == 1


@pytest.mark.parametrize("where", ["environment", "a-file-each", "credentials", "config"])
def test_secrets_are_never_shown(tree, tmp_path, state, where):
    environment, words = {}, [tree, *state]
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "keys").write_text(f"ACCESSKEY\n{SECRET}\n")
    (tmp_path / "config").write_text(f'access-key = "ACCESSKEY"\nsecret-key = "{SECRET}"\n')
    if where == "environment":
        environment, source = {"TWINTREE_ACCESS_KEY": "ACCESSKEY", "TWINTREE_SECRET_KEY": SECRET}, "the environment"
    elif where == "a-file-each":
        environment, source = {"TWINTREE_ACCESS_KEY": "ACCESSKEY", "TWINTREE_SECRET_KEY_FILE": str(tmp_path / "secret")}, "the environment"
    elif where == "credentials":
        words, source = [*words, "--credentials", tmp_path / "keys"], str(tmp_path / "keys")
    else:
        words, source = [*words, "--config", tmp_path / "config"], "the config file"
    values, sources, _ = shown(*words, environment=environment)
    assert (values["access-key"], values["secret-key"]) == ("ACCESSKEY", "(not shown)")
    assert (sources["access-key"], sources["secret-key"]) == (source, source)
    assert run("config", "check", *words, environment=environment).returncode == 0


def test_nothing_is_made_by_looking(tree, tmp_path, state):
    _, sources, _ = shown(tree, *state)
    assert sources["secret-key"] == f"made at the first start, in {tmp_path}/state/credentials"
    assert run("config", "check", tree, *state).returncode == 0
    assert not (tmp_path / "state").exists() and os.listdir(tree) == []


def test_what_is_not_there_is_shown_all_the_same(tmp_path, state):
    values, _, _ = shown(tmp_path / "gone", "--tls-cert", "/none", "--tls-key", "/none", *state)
    assert values["tls-cert"] == "/none"


# Judging.

def test_a_good_one_is_good(tree, tmp_path, state, authority):
    (tmp_path / "mount").mkdir()
    done = run("config", "check", tree, "--tls-cert", authority.certificate, "--tls-key", authority.key, "--mount", tmp_path / "mount", *state)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tree} would be served: the configuration is good\n"
    assert run("config", "check", "--config", DOCUMENTED, tree, *state).returncode == 0, "the documented one, with a directory that is there"


@pytest.mark.parametrize("text, words", [
    ('\ndurabilty = "strict"', ['line 2: there is no setting "durabilty": did you mean "durability"?']),
    ("colour = 1", ['there is no setting "colour"', "--help"]),
    ("listen = 5", ["line 1: listen: expected a text or a list of texts"]),
    ("region = 5", ["line 1: region: ", "expected a string: write it in quotes"]),
    ('read-only = "yes"', ["line 1: read-only: ", "expected a boolean"]),
    ("max-connections = -1", ["line 1: max-connections: "]),
    ("secret-key = 1234567890", ["line 1: secret-key must be a text in quotes"]),
    (f"secret-key = {SECRET}", ["line 1"]),
    (f'secret-key = "{SECRET}', ["line 1"]),
    ('durability = "maybe"', ['durability is strict or relaxed, not "maybe"']),
    ('header-timeout = "soon"', ["header-timeout", "no time such as"]),
    ('admin = "9001"', ['admin: "9001" is no ADDR:PORT']),
    ('console = "on"', ['console is admin, s3 or off, not "on"']),
    ("admin-tls = true", ["admin-tls shows the certificates of tls-cert, and there are none"]),
    ('log = "a=["', ["log", "no filter"]),
    ('log-format = "xml"', ["log-format is text or json"]),
    ('access-key = "AK"', ["access-key and secret-key go together"]),
    (f'access-key = "AK"\nsecret-key = "{SECRET}"', ["the access key from the config file must have"]),
    ("[buckets.photos]\netags = 1", ['line 2: there is no setting "etags": did you mean "etag"?']),
    ('[buckets.photos]\netag = "sha"', ["buckets.photos.etag is md5 or crc64"]),
    ("region", ["line 1"]),
])
def test_each_mistake_in_the_file_is_one_sentence_and_64_for_check_and_for_serve(tree, tmp_path, state, text, words):
    config = tmp_path / "twintree.toml"
    config.write_text(text + "\n")
    for done in (run("config", "check", tree, "--config", config, *state), run("serve", tree, "--config", config, *state)):
        assert done.returncode == USAGE and done.stdout == "", done
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("twintree: "), done
        for word in words:
            assert word in done.stderr, done
    assert not (tmp_path / "state").exists() and os.listdir(tree) == []


def test_each_thing_that_is_not_there_is_one_sentence_with_its_remedy(tree, tmp_path, state, authority):
    plain = tmp_path / "plain"
    plain.write_text("x")
    cases = [
        ([tmp_path / "gone"], NO_INPUT, "there is no such directory: make it"), ([plain], NO_INPUT, "it is not a directory"),
        ([tree, "--state-dir", tree / "state"], USAGE, "lies in the served tree: give --state-dir DIR"),
        ([tree, "--tls-cert", authority.certificate, "--tls-key", plain], USAGE, str(plain)),
        ([tree, "--tls-cert", authority.certificate, "--tls-key", authority.key, "--config", tmp_path / "none"], USAGE, "none"),
        ([tree, "--credentials", tmp_path / "none"], USAGE, "none"), ([tree, "--credentials", plain], USAGE, "does not hold two lines"),
        ([tree, "--mount", tmp_path / "gone"], USAGE, "there is no directory"), ([], USAGE, "no directory to serve"),
    ]
    for words, code, named in cases:
        done = run("config", "check", *words, *([] if "--state-dir" in words else state))
        assert (done.returncode, done.stdout) == (code, ""), (words, done)
        assert len(done.stderr.splitlines()) == 1 and named in done.stderr, (words, done)


def test_serve_says_in_one_sentence_that_there_is_nothing_to_serve(tmp_path, state):
    (tmp_path / "plain").write_text("x")
    for root, named in ((tmp_path / "gone", "there is no such directory"), (tmp_path / "plain", "it is not a directory")):
        done = run("serve", root, "--listen", "127.0.0.1:0", *state)
        assert (done.returncode, done.stdout) == (NO_INPUT, ""), done
        assert len(done.stderr.splitlines()) == 1 and named in done.stderr, done
    assert not (tmp_path / "state").exists()
