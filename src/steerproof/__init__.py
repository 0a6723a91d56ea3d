"""steerproof: does a language model read a direction in its activations?"""

__version__ = "0.1.0"
