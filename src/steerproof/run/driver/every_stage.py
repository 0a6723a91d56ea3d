"""Every stage, imported: a worker that is started early makes ready with this module."""

import importlib
from contextlib import suppress

from steerproof.garbage import importing
from steerproof.run.graph.environment import stage_module
from steerproof.run.graph.units import KINDS

with importing():
    for _kind in KINDS:
        with suppress(Exception):  # the order that needs it says what is wrong with it
            importlib.import_module(stage_module(_kind))
