"""`python -m srctd` is `srctd`."""

from srctd.cli import main

if __name__ == "__main__":
    main()
