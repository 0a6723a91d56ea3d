"""`python -m steerproof` is the `steerproof` command."""

from steerproof.command import main

main()
