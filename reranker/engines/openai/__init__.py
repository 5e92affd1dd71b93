"""The engine over HTTP, for any OpenAI-compatible vLLM server."""
