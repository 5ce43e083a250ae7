"""The passes: one file, one pass. Imported as `gpucompile.passes`, though the folder is at the checkout's top."""

if __name__ == "passes":
    raise ImportError("import this package as gpucompile.passes: under two names every pass would be registered twice")
