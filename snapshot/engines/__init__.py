"""One module per engine; each is a way to run an exported model."""
