import sys
from pathlib import Path

# What the tests of the tiny experiment share lies beside it.
sys.path.insert(0, str(Path(__file__).parent / "tiny"))
sys.path.insert(0, str(Path(__file__).parent / "bad"))

from bench import table
from tinyrun import reference, server, tiny_data

__all__ = ["reference", "server", "table", "tiny_data"]
