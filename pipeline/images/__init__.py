"""The image hierarchy: definition → hierarchy → context → fingerprint → plan → build → publish."""
