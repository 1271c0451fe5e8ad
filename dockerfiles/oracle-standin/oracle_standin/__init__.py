"""A stand-in for an Oracle database in integration tests: seerdb's server in front of PostgreSQL, in one container."""
