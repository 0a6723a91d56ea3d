"""Property tests of this package: no deadline, since a shared machine can be slow for a moment."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
