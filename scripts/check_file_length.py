"""Fails when a file of ours has over 400 lines: it then holds more than one subject."""

import subprocess
import sys

LIMIT = 400
#: Written by `make manifests`; the licence's own text.
NOT_OURS = ("manifests/", "tests/chart/golden/", "LICENSE")
#: Helm reads a chart's schema from one file.
UNDIVIDED = ("helm/rvk8s/values.schema.json", "helm/rvk8s-platform/values.schema.json")
#: Pictures, and what is written by `make lock` and by Go.
NO_TEXTS = (".jpg", ".png", ".lock", "go.sum")


def main() -> int:
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    too_long = []
    for file in files:
        if not file.startswith(NOT_OURS) and not file.endswith((*UNDIVIDED, *NO_TEXTS)):
            try:
                with open(file, encoding="utf-8") as lines:
                    count = sum(1 for _ in lines)
            except FileNotFoundError:  # deleted in the working tree, not yet in the index
                continue
            if count > LIMIT:
                too_long.append(f"{file}: {count} lines, {LIMIT} at most")
    print("\n".join(too_long) or f"{len(files)} files, none of ours over {LIMIT} lines")
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main())
