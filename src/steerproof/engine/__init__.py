"""Many adapters and many cells at once: pooled LoRA, paged cache, generation, training."""
