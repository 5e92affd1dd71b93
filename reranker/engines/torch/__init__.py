"""The torch engine: a packed forward pass."""
