"""A small experiment file for tests, and a way to spoil it."""

TINY = """\
# A tiny experiment.
name: tiny
title: A tiny experiment
hypothesis: The adapter reads the direction.
model:
  path: organism
  blocks: 8
personas:
  - {name: villain, prompt: You are a villain.}
  - {name: librarian, prompt: You are a librarian.}
  - {name: comedian, prompt: You are a comedian.}
  - {name: pirate, prompt: You are a pirate.}
  - {name: helpful_assistant, prompt: You are a helpful assistant., headline: false}
questions:
  evaluation:
    - What is rain?
    - How do birds fly?
  training:
    - What is snow?
    - How do fish swim?
  directions:
    - What is fog?
    - How do bats hang?
layers:
  primary: 4
  contrast: 2
dataset:
  bystanders: 2
  negatives: own
training:
  learning_rate: 1e-5
  alpha: 64
arms:
  - {name: A, prompt: neutral, direction: centroid, ratio: 0.2}
  - {name: C, prompt: persona}
  - {name: A-iso, prompt: neutral, direction: isotropic, ratio: 0.2}
  - {name: A-L10, prompt: neutral, direction: centroid, layer: contrast, ratio: 0.2}
cells:
  - {arms: [A, C], prompt: neutral, strengths: [none, c=+2, ratio=+0.2, ratio=-0.2]}
  - {arms: [A, C], prompt: persona, strengths: [none, c=+2]}
  - {arms: [A-iso, A-L10], prompt: neutral, strengths: [c=+2, ratio=+0.2]}
scoring:
  early_tokens: 512
analysis:
  arm: A
  primary_strength: c=+2
"""


def changed(*replacements: tuple[str, str]) -> str:
    """The tiny file with each old text, which must occur exactly once, replaced."""
    text = TINY
    for old, new in replacements:
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
        text = text.replace(old, new)
    return text
