"""The outside world: one module a tool, each the only importer of its library."""
