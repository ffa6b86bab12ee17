"""Rows from files: TRL's columns in JSONL, Parquet or a saved ``datasets`` folder."""
