import os
import sys
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# Tests run side by side, with networks too small for threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What several test files share lies beside this one.
sys.path.insert(0, str(Path(__file__).parent))

from s3server import s3, s3_process

__all__ = ["s3", "s3_process"]
