"""The edge: parse and format, nothing else."""
