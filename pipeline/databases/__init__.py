"""A database for a test run: what an engine of that kind must offer, when it is ready, how it is prepared."""
