"""The numbers that the README claims, each with its baseline in the same run: ``make bench``."""
