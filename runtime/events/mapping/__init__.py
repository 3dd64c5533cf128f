"""Event source mappings at work: queues are polled, and what they hold goes to functions in batches."""
