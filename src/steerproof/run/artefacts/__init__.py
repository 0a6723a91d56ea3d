"""The files of units as records: one module a kind, with `to_files` and `from_unit`.

Whoever writes or reads a unit does it here, so the names of files and columns stand in one place.
The records themselves are values of `study` and `decide`, which know no files.
"""
