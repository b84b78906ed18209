"""Fails when a file of ours has over 400 lines: it then holds more than one subject."""

import subprocess
import sys

LIMIT = 400
SUFFIXES = (".py", ".sh", ".tpl", ".yaml", ".md", "Dockerfile")
#: Written by `make manifests`.
GENERATED = ("manifests/", "tests/chart/golden/")


def main() -> int:
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    too_long = []
    for file in files:
        if file.endswith(SUFFIXES) and not file.startswith(GENERATED):
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
