"""The frozen base model, the one steering hook, the one adapter layer."""
