"""Small shared tools: files written whole, ids as JSON, safetensors, bootstrap statistics, settings."""
