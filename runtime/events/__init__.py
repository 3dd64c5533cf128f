"""What causes invocations other than a request: the decisions, which are pure, and nothing that waits or writes."""
