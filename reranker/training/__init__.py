"""Training: what is learned over many domains before a domain or a user adapts it."""
