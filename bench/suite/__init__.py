"""What bench/run is made of. Signing and the daemon as a process come from tests/lib."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests"))
