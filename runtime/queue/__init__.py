"""The durable queue: messages with leases, and records of what became of them, in one SQLite file."""

if not __name__.startswith("glowplug."):
    raise ImportError("import this package as glowplug.runtime.queue")
