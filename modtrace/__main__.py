"""`python -m modtrace` is the command `modtrace`."""

from modtrace.cli import main

if __name__ == "__main__":
    main()
