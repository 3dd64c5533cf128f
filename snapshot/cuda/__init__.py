"""What belongs to an NVIDIA GPU alone: which devices there are, contexts ahead of time, the Multi-Process Service.

Nothing here is imported, and no program of NVIDIA's is run, on a machine without its driver. Nothing here has run on a
GPU yet; ``pytest -m gpu`` is the test that does.
"""
