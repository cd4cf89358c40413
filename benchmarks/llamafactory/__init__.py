"""LLaMA-Factory, as it is, in an environment of its own."""
