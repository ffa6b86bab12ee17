"""The machinery of a benchmark: two or more ways to the same numbers, checked for equality, then timed in turn."""
