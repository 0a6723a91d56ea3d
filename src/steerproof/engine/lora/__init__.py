"""LoRA adapters in one pool: products, gradients, kernels, PEFT's files."""
