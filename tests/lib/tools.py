"""Commands of the system that tests call."""

import shutil

import pytest

from . import environment


def need(*commands):
    """Skips the test where one of these is missing, and says what to install."""
    packages = {command: package for command, package, _ in environment.WANTED}
    for command in commands:
        if shutil.which(command) is None:
            pytest.skip(f"needs {command} (Debian: apt-get install {packages[command]})")
