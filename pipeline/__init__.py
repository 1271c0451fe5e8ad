"""Images and test databases out of Git."""
