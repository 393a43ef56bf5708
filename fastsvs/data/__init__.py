"""Problems: records, loaders, prompts, and the procedural tiny task."""
