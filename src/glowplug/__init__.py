"""glowplug: model functions that cost nothing while idle and answer within milliseconds when called."""

__version__ = "0.1.0"
