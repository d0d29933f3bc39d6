"""Loading of models, adapters and GGUF files."""
