"""The units in a machine that systemd has booted (user-mode-linux): what they are for. All that they promise is tests/booted/run."""

import pytest
from lib import booted, tables, tools

MOST_EXPOSED = 1.5
"""What `systemd-analyze security` may say of the S3 service at most."""
pytestmark = pytest.mark.timeout(600)  # the first one boots the machine


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """One boot for all."""
    tools.need(*booted.TOOLS)
    one = booted.run(tmp_path_factory.mktemp("booted"), "short")
    assert one.has_ended(), (one.lines, one.console[-3000:], one.journal[-3000:])
    return one


def holds(machine, *claims):
    """These were looked at, and hold."""
    for claim in claims:
        assert f"ok {claim}" in machine.lines, machine.lines


def test_the_unit_becomes_active_by_itself_and_says_what_it_serves(machine):
    holds(machine, "active by itself after the boot", "its status says what it serves")


def test_it_is_its_own_user_without_capabilities_behind_a_filter(machine):
    holds(machine, "its own user", "no capability", "system calls are filtered", "its hardening leaves it openat2")


def test_s3_answers_with_the_key_of_the_credential(machine):
    holds(machine, "a bucket by S3, with the credential's key", "an object by S3", "and back", "it is a file", "no key of its own was made",
          "the credential is not for its user to read elsewhere", "a request without a key is refused")


def test_the_watchdog_kills_and_restarts_what_hangs(machine):
    holds(machine, "the watchdog restarts it when it hangs", "and it was the watchdog", "it answers again")


def test_everybody_sees_what_the_mount_unit_mounts(machine):
    holds(machine, "the mount service is active", "it takes the other's place", "everybody sees what it mounts", "init sees it too", "what S3 put is there",
          "another user writes there", "and it is his", "S3 shows it at once", "a private file stays private", "stopped, it unmounts")


def test_the_exposure_is_no_more_than_promised(machine):
    figures = {name: machine.figure(name) for name in ("exposure", "exposure-of-the-mount")}
    assert 0 < figures["exposure"] <= MOST_EXPOSED
    tables.LINES.append(f"booted: {sum(line.startswith('ok ') for line in machine.lines)} promises of the units kept; {figures}")


def test_nothing_that_was_looked_at_fails(machine):
    assert machine.failed() == []
    holds(machine, "nothing to complain of in its log", "nothing to complain of in the mount's log", "and the S3 service takes over again, with its state")
