"""All of test_direct_edits.py with the watcher turned off: that changes when something shows, never what."""

import pytest
from test_direct_edits import *  # noqa: F403  (its tests, collected here once more)


@pytest.fixture
def served(daemon, tree):
    """A daemon that hears nothing of direct writers."""
    return daemon(tree, "--watch", "off")
