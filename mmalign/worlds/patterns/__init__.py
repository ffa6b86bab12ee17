"""The patterns world: small pictures of shapes, textures, solids and glyphs, many at once, their truth known."""

from __future__ import annotations
