"""Spellings of columns: one file per dialect, each turning its records into TRL's terms."""
