"""`make cluster-up` and `make cluster-down`: the test cluster by hand."""

from __future__ import annotations

import shutil
import subprocess
import sys

from cluster import testbed
from cluster.leftovers import CannotClear
from cluster.processes import NotReady
from cluster.programs import CannotBuild
from cluster.projectimage import NoRoom

USAGE = """\
python -m cluster up [--fresh]   start it; --fresh: a new one where one runs already
python -m cluster down           end it; built programs and images stay
python -m cluster clean          end it and delete its images
"""


def main(args: list[str]) -> int:
    match args:
        case ["up", *rest] if rest in ([], ["--fresh"]):
            return _up(fresh=bool(rest))
        case ["down"]:
            testbed.down()
        case ["clean"]:
            testbed.down()
            shutil.rmtree(testbed.state_folder(), ignore_errors=True)
        case _:
            print(USAGE, file=sys.stderr, end="")
            return 2
    return 0


def _up(fresh: bool) -> int:
    try:
        bed = testbed.up(fresh)
    except (testbed.Unusable, CannotBuild, CannotClear, NoRoom, NotReady) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        said = "\n".join(getattr(error, "__notes__", []))
        print(f"cluster: {error}\n{said}", file=sys.stderr)
        return 1
    print(f"export KUBECONFIG={bed.kubeconfig}")
    print(f"# S3 at {bed.endpoint}, bucket {bed.bucket}; all of it for a shell:")
    print(f". {testbed.state_folder()}/env")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
