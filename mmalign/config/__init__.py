"""Configuration: frozen sections, read from YAML and flags."""
