"""From a model to a compiled engine and back. Knows no functions."""

if not __name__.startswith("glowplug."):
    raise ImportError(f"import glowplug.{__name__}, not {__name__}: the same file twice would be two modules")
