"""Suites of transfer tasks: generated ones, and readers of the usual data folders."""
