"""The ``mmalign`` command: one small file per sub-command, imported only when it is asked for."""
