"""The command line; see `gpucompile.cli.main`."""
