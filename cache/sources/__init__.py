"""Where models come from: one module per kind of source, one table of them."""

if not __name__.startswith("glowplug."):
    raise ImportError(f"import glowplug.{__name__}, not {__name__}: the same file twice would be two modules")
