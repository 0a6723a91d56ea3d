"""The public door: what a notebook or a script says in one line, made of the rooms below.

Every public name is listed in `steerproof/__init__.py` and imported when it is first used.
"""
