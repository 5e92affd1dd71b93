"""This project's own experiments; each runs as `python -m eval.<name>`."""
