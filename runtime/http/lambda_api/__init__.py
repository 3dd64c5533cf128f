"""Lambda's HTTP API (spec 1): ``routes`` is the table of operations, a module for each subject parses and formats."""
