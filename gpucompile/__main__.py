"""`python -m gpucompile`: the command line."""

from gpucompile.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
