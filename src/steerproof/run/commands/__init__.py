"""What the command line asks of a run directory: one module a command, or a part of one."""
