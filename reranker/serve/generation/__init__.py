"""Text generation behind the endpoint: queue, limits, vLLM."""
