"""The glowplug command."""
