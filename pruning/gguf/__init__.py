"""Read a GGUF file, and write it without some of its blocks: no weight is dequantised."""
