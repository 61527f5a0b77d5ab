"""``python -m redraft``: the command, where it is not on the path."""

from redraft.cli.main import main

if __name__ == "__main__":
    main()
