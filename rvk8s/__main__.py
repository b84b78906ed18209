"""`python -m rvk8s`: the program, where its script is not on PATH."""

from rvk8s.cli import main

if __name__ == "__main__":
    main()
