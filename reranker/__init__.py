"""Rerank recommendation candidates with a causal LLM. Importing this loads no torch, no vllm and no implicit."""
