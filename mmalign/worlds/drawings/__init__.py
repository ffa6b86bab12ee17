"""The drawings world: prompts for small pictures of shapes, and the exact truth about what was drawn."""
