"""Packages and package data: the root folders install as ``mmalign.modalities`` and so on.

Everything else about the distribution is in ``pyproject.toml``; the list of sub-packages is the one
thing that has to be computed, because three folders of the checkout live under another name.
"""

from __future__ import annotations

from setuptools import find_packages, setup

ROOT_FOLDERS = ("modalities", "rewards", "benchmarks")
DATA = ("yaml", "json", "jsonl", "safetensors", "j2", "jinja", "css", "js", "svg", "txt", "model", "tmpl")

packages = find_packages(include=["mmalign", "mmalign.*"])
package_dir = {"mmalign": "mmalign"}
for folder in ROOT_FOLDERS:
    package_dir[f"mmalign.{folder}"] = folder
    packages += [f"mmalign.{folder}", *(f"mmalign.{folder}.{name}" for name in find_packages(folder))]

patterns = ["py.typed", *(f"**/*.{suffix}" for suffix in DATA), "**/LICENSE*"]
setup(
    packages=packages,
    package_dir=package_dir,
    package_data={"mmalign": patterns, **{f"mmalign.{folder}": patterns for folder in ROOT_FOLDERS}},
)
