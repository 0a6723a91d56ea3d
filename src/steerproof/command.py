"""Where the `steerproof` command begins: a signal ends it in its way before it is imported."""

import signal
import sys
from types import FrameType


def _too_early(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(130)  # nothing was begun, so there is nothing to say


for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) is not signal.SIG_IGN:  # as `nohup` wants it
        signal.signal(_number, _too_early)

from steerproof import cli  # noqa: E402  it takes a while, in which somebody may stop it
from steerproof.cli.leaving import leave  # noqa: E402

__all__ = ["main"]


def main() -> None:
    """The command, to the end of the process."""
    try:
        cli.main()
    except SystemExit as ending:
        leave(ending.code)
        raise
    leave(0)
