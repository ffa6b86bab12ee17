"""Tuners by name: each says what is attached where; parts and peft do the rest."""
