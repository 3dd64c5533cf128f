"""How processes are made and talked to."""
