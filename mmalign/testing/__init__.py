"""What a plug-in author imports to test a plug-in: conformance suites and tiny policies."""
