"""Results as text, files, plots and an HTML page."""
