"""What the operations of Lambda's API mean: pure decisions from one catalog to the next, a module for each subject."""
