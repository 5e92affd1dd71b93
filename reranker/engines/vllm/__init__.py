"""The vLLM engine: prefix cache, virtual tokens, span likelihoods."""
