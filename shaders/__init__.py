"""The WGSL templates, `*.wgsl.j2`, read as data of `gpucompile.shaders`.

One file per schedule; shared macros are in files whose names start with `_`. No code lives here.
"""

if __name__ == "shaders":
    raise ImportError("import this package as gpucompile.shaders")
