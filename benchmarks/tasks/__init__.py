"""The bundled tasks; each is built with named options and registered under ``mmalign.tasks``."""

from __future__ import annotations
