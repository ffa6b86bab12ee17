"""The ``mmalign`` command: one small file per sub-command, none of which is imported before it is asked for."""
