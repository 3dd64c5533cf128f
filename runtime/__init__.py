"""The node and its workers."""

if not __name__.startswith("glowplug."):
    raise ImportError(f"import glowplug.{__name__}, not {__name__}: the same file twice would be two modules")
