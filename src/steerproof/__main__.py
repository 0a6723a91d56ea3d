"""`python -m steerproof` is the `steerproof` command."""

from steerproof.cli import main

main()
