"""Every error that steerproof raises on purpose, with the exit code it ends the program with.

SteerproofError               2   bad arguments, experiment, table or model
├── ExperimentError           2   the experiment file or a rate table is wrong
├── ModelError                2   the model directory, tokenizer or adapter file is unusable
│   └── AbsentModelError      2   the model is not on this machine, and cannot be had from it now
├── SteeringError             2   a direction was not, or cannot be, added as asked
├── RegistrationError         2   the experiment differs from what was locked
├── MachineError              3   this machine cannot do the work
├── UnitsFailedError          4   some units failed; the others are finished
├── LockedError               5   another process holds the run directory
├── DiskFullError             6   no space left; everything finished is kept
└── IntegrityError            7   a file does not match its recorded hash
"""

import errno

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


class SteerproofError(Exception):
    """The root: an error whose message is meant for the person at the terminal."""

    exit_code = 2


class ExperimentError(SteerproofError):
    """The experiment file, or a rate table, does not say something that can be done."""


class ModelError(SteerproofError):
    """A model directory, tokenizer, chat template or adapter file is unusable."""


class AbsentModelError(ModelError):
    """The model is not on this machine: not fetched yet, or its hub cannot be reached."""


class SteeringError(SteerproofError):
    """A direction was not, or could not be, added to the residual stream as asked."""


class RegistrationError(SteerproofError):
    """The experiment differs from the one that was locked in this run directory."""


class MachineError(SteerproofError):
    """This machine cannot do the work: memory, device, versions or filesystem."""

    exit_code = 3


class UnitsFailedError(SteerproofError):
    """Some units failed; the others are finished and kept."""

    exit_code = 4


class LockedError(SteerproofError):
    """Another process holds the run directory."""

    exit_code = 5


class DiskFullError(SteerproofError):
    """The disk is full; everything finished is kept."""

    exit_code = 6


class IntegrityError(SteerproofError):
    """A file does not match the hash recorded for it."""

    exit_code = 7


def short_of(error: BaseException) -> bool:
    """Whether the machine lacks descriptors, memory or threads: that says nothing of the file."""
    return isinstance(error, OSError) and error.errno in _SHORTAGES
