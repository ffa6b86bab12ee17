"""The tunes world: short pieces of music, captions of them, and the exact truth about what is heard."""
