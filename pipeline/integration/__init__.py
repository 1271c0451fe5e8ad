"""The integration-test bracket: start a database, run the tests against it, stop it, whatever happens."""
