"""What the packages bring: units, man pages, completions, notices; and what the packages' own critics say of them."""

import importlib.util
import json
import pathlib
import re
import shutil
import subprocess

import pytest
from lib import packages, server, tables

PACKAGING = packages.ROOT / "packaging"
UNITS = ("twintree.service", "twintree-mount.service", "twintree.socket")
MOST_EXPOSURE = 1.5
MOST_BYTES = 15_000_000
# What gives a service a mount namespace of its own (systemd.exec(5)), where nobody else sees what it mounts.
NAMESPACES = ("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths",
              "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectProc", "ProcSubset",
              "BindPaths", "RootDirectory", "RootImage", "TemporaryFileSystem", "MountFlags", "PrivateUsers", "DynamicUser")
FILES = ("/usr/bin/twintree", "/etc/twintree/twintree.toml", "/usr/lib/systemd/system/twintree.service", "/usr/lib/systemd/system/twintree.socket",
         "/usr/lib/systemd/system/twintree-mount.service", "/usr/lib/sysusers.d/twintree.conf", "/usr/lib/tmpfiles.d/twintree.conf",
         "/usr/share/man/man1/twintree.1.gz", "/usr/share/man/man1/twintree-serve.1.gz", "/usr/share/man/man5/twintree.toml.5.gz",
         "/usr/share/bash-completion/completions/twintree", "/usr/share/fish/vendor_completions.d/twintree.fish",
         "/usr/share/doc/twintree/README.md", "/usr/share/doc/twintree/third-party.txt.gz")


def run(*words, check=True):
    """Runs a command to its end; gives what it said."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 or not check, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def settings(unit):
    """A unit's lines as (name, value) pairs."""
    lines = (PACKAGING / "systemd" / unit).read_text().splitlines()
    return [tuple(line.split("=", 1)) for line in lines if line and not line.startswith(("#", "["))]


def have(tool):
    """Is it here? Where not, the summary says what was not looked at."""
    if shutil.which(tool) is None:
        tables.LINES.append(f"{tool} is not here: what it would say was not looked at")
    return shutil.which(tool)


# Units.

def test_the_exposure_of_the_s3_service_is_small():
    if not have("systemd-analyze"):
        return
    said = run("systemd-analyze", "security", "--offline=true", PACKAGING / "systemd" / "twintree.service", check=False)
    figure = float(re.search(r"Overall exposure level for twintree.service: ([\d.]+)", said).group(1))
    tables.LINES.append(f"systemd-analyze security: twintree.service {figure} (at most {MOST_EXPOSURE})")
    assert figure <= MOST_EXPOSURE, said


@pytest.mark.parametrize("unit", ["twintree.service", "twintree-mount.service"])
def test_a_reload_is_a_signal_that_needs_no_program_but_the_shell(unit):
    """/bin/kill is of procps, which a small system has not."""
    assert dict(settings(unit))["ExecReload"] == "/bin/sh -c 'kill -HUP $MAINPID'"


def test_the_s3_service_has_a_user_of_its_own_and_no_capability():
    told = dict(settings("twintree.service"))
    assert told["User"] == "twintree" and told["CapabilityBoundingSet"] == "" and told["NoNewPrivileges"] == "yes"
    assert told["Type"] == "notify" and "WatchdogSec" in told
    assert "twintree.credentials" in told["LoadCredential"]


@pytest.mark.parametrize("unit", ["twintree.service", "twintree-mount.service"])
def test_no_hardening_takes_away_what_the_store_stands_on(unit):
    told = dict(settings(unit))
    assert "RestrictSUIDSGID" not in told, "systemd answers openat2 with ENOSYS then"
    assert "ProcSubset" not in told, "there would be no /proc/sys/kernel/random/boot_id"
    assert told["SystemCallErrorNumber"] == "EPERM", "a refused call must not end the daemon"


def test_the_mount_service_has_no_mount_namespace_and_just_its_capabilities():
    told = settings("twintree-mount.service")
    assert not [name for name, _ in told if name in NAMESPACES], "what it mounts must be seen by everybody"
    capabilities = dict(told)["CapabilityBoundingSet"].split()
    assert "CAP_SYS_ADMIN" in capabilities and len(capabilities) == 12
    assert not {"CAP_NET_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_BPF", "CAP_SYS_BOOT"} & set(capabilities)


def test_systemd_understands_every_line_of_the_units(tmp_path):
    if not have("systemd-analyze"):
        return
    for unit in UNITS:
        text = (PACKAGING / "systemd" / unit).read_text().replace("/usr/bin/twintree", str(pathlib.Path(server.BINARY).resolve()))
        (tmp_path / unit).write_text(text)
    said = run("systemd-analyze", "verify", "--man=no", *(tmp_path / unit for unit in UNITS), check=False)
    ours = [line for line in said.splitlines() if "twintree" in line and not line.endswith("Unit configuration has fatal error, unit will not be started.")]
    assert not ours, said


def test_the_sample_config_serves_as_it_is(daemon, tree):
    one = daemon(tree, "--config", PACKAGING / "twintree.toml")
    assert one.url.startswith("http://127.0.0.1:")


# Pages and completions.

@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Where this binary has written its pages and completions."""
    folder = tmp_path_factory.mktemp("generated")
    run(server.BINARY, "generate", folder)
    return folder


def commands(*above):
    """The commands that the help names, and those below them: their words by the name of their page (`config`, `config-check`)."""
    said = run(server.BINARY, *above, "--help")
    if "Commands:\n" not in said:
        return {}
    listed = said.split("Commands:\n")[1].split("\n\n")[0]
    found = {}
    for name in re.findall(r"^  ([\w-]+)", listed, re.M):
        if name != "help":
            found |= {"-".join([*above, name]): (*above, name)} | commands(*above, name)
    return found


def flags(command):
    """The long flags that a command's help names."""
    return sorted(set(re.findall(r"^\s+(?:-\w, )?(--[a-z-]+)", run(server.BINARY, *commands()[command], "--help"), re.M)))


def test_each_command_has_its_page_and_the_hidden_one_has_none(generated):
    names = {path.name for path in (generated / "man").iterdir()}
    assert names == {"twintree.1", "twintree.toml.5", *(f"twintree-{command}.1" for command in commands())}
    assert len(names) >= 8


@pytest.mark.parametrize("command", ["serve", "mount", "seal", "inventory", "config-check"])
def test_each_flag_stands_in_its_page_and_in_every_completion(generated, command):
    page = (generated / "man" / f"twintree-{command}.1").read_text().replace("\\", "")
    shells = {name: (generated / "completions" / name).read_text() for name in ("twintree.bash", "_twintree", "twintree.fish")}
    found = flags(command)
    assert len(found) > 4
    for flag in found:
        assert f"fB{flag}" in page, flag
        for name, text in shells.items():
            assert (flag in text) or (f"-l {flag[2:]}" in text), f"{flag} in {name}"


def test_each_flag_of_serve_is_a_key_of_the_config_files_page(generated):
    page = (generated / "man" / "twintree.toml.5").read_text().replace("\\", "")
    for flag in set(flags("serve")) - {"--config", "--help"}:
        assert f"fB{flag[2:]}fR = " in page, flag
    assert "root = \"/srv/twintree\"" in page, "the sample is its example"


def test_pages_can_be_shown(generated):
    if not have("man"):
        return
    for page in (generated / "man").iterdir():
        said = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page], capture_output=True, text=True, timeout=60)
        assert said.returncode == 0 and not said.stderr, f"{page.name}: {said.stderr}"


def test_completions_are_understood_by_their_shells(generated):
    for shell, name in (("bash", "twintree.bash"), ("zsh", "_twintree"), ("fish", "twintree.fish")):
        if have(shell):
            run(shell, "-n", generated / "completions" / name)
    script = f'. {generated}/completions/twintree.bash; COMP_WORDS=(twintree serve --durab); COMP_CWORD=2; _twintree twintree --durab serve; echo "${{COMPREPLY[*]}}"'
    assert run("bash", "-c", script).strip() == "--durability"


# Packages.

def test_both_packages_hold_everything_and_are_small():
    made = packages.built()
    lists = {"deb": [line.split()[5].lstrip(".") for line in run("dpkg-deb", "-c", made["deb"]).splitlines()]}
    if have("rpm"):
        lists["rpm"] = run("rpm", "-qlp", made["rpm"]).splitlines()
    for kind, names in lists.items():
        assert not set(FILES) - set(names), kind
        assert any(name.endswith("/_twintree") for name in names), kind
        assert len([name for name in names if "/man1/" in name and name.endswith(".gz")]) == len(commands()) + 1, kind
        assert made[kind].stat().st_size <= MOST_BYTES
        tables.LINES.append(f"{made[kind].name}: {made[kind].stat().st_size / 1e6:.1f} MB")


def test_one_build_gives_the_same_packages_again():
    again = packages.built.__wrapped__()
    for kind in ("deb", "rpm"):
        assert again[kind].read_bytes() == packages.built()[kind].read_bytes(), kind


def test_who_makes_packages_stands_in_them(monkeypatch):
    for name, value in {"DEBFULLNAME": "A. Packager", "DEBEMAIL": "packager@nas.example", "TWINTREE_HOMEPAGE": "https://nas.example/twintree"}.items():
        monkeypatch.setenv(name, value)
    made = packages.built.__wrapped__()
    assert run("dpkg-deb", "-f", made["deb"], "Maintainer", "Homepage") == "Maintainer: A. Packager <packager@nas.example>\nHomepage: https://nas.example/twintree\n"
    if shutil.which("rpm"):
        assert run("rpm", "-qp", "--qf", "%{PACKAGER} %{URL}", made["rpm"]) == "A. Packager <packager@nas.example> https://nas.example/twintree"


def test_the_deb_belongs_to_root_and_names_its_conffile_and_what_it_needs(tmp_path):
    deb = packages.built()["deb"]
    for line in run("dpkg-deb", "-c", deb).splitlines():
        mode, owner = line.split()[:2]
        assert owner in ("root/root", "0/0") and "s" not in mode[1:], line
    run("dpkg-deb", "-e", deb, tmp_path)
    assert (tmp_path / "conffiles").read_text().split() == ["/etc/twintree/twintree.toml"]
    assert re.search(r"^Depends: .*libc6 \(>= 2\.\d+\)", (tmp_path / "control").read_text(), re.M)
    for script in ("postinst", "prerm", "postrm"):
        run("sh", "-n", tmp_path / script)


def test_what_is_removed_at_purge_is_never_a_tree():
    text = (PACKAGING / "deb" / "postrm").read_text()
    assert not re.search(r"\brm\s+-\w*r", text) and "find" not in text, "whoever serves a directory within our state keeps it"


def test_every_crate_that_is_linked_has_its_notice():
    spec = importlib.util.spec_from_file_location("licences", PACKAGING / "licences.py")
    licences = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(licences)
    text, lacking = licences.notices(packages.ROOT)
    named = licences.crates(packages.ROOT)
    assert len(named) > 80
    for crate in named:
        assert f"  {crate['name']} {crate['version']}: " in text
    tables.LINES.append(f"licence notices: {len(named)} crates, {len(lacking)} of them without a text in their sources")
    assert len(lacking) < len(named) / 20, lacking


def test_lintian_has_nothing_to_say():
    if have("lintian"):
        assert run("lintian", "--allow-root", "--fail-on", "error,warning", packages.built()["deb"], check=False) == ""


def test_rpmlint_has_nothing_to_say():
    if have("rpmlint"):
        said = run("rpmlint", "-c", PACKAGING / "rpm" / "rpmlint.toml", packages.built()["rpm"], check=False)
        assert not re.findall(r"^\S+: [EW]: .*$", said, re.M), said


def test_there_are_at_most_five_exceptions_each_with_its_reason():
    overrides = [line for line in (PACKAGING / "deb" / "lintian-overrides").read_text().splitlines() if line and not line.startswith("#")]
    filters = json.loads(re.search(r"Filters = (\[.*?\])", (PACKAGING / "rpm" / "rpmlint.toml").read_text(), re.S).group(1).replace(",\n]", "]"))
    reasons = (PACKAGING / "README.md").read_text()
    tags = [line.split()[1] for line in overrides] + [line.split()[0] for line in filters]
    assert len(tags) <= 5
    for tag in tags:
        assert re.search(rf"\| `{tag}` \| \S+", reasons), tag
