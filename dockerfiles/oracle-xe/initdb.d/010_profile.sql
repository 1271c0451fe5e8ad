-- An example of a set-up script, and two lines that each of them needs.
--
-- Without these, SQL*Plus goes on after an error and ends with 0: the database would come up half prepared, and look
-- healthy. FAILURE and not the error's own number: an exit code has 8 bits, and ORA-01024 for one would become 0.
WHENEVER SQLERROR EXIT FAILURE ROLLBACK
WHENEVER OSERROR EXIT FAILURE ROLLBACK

-- Scripts run in the root container. What concerns applications belongs in the pluggable database.
ALTER SESSION SET CONTAINER = XEPDB1;

-- Passwords of test databases are random and live as long as the container: they need no renewal, and a test that
-- logs in with a wrong one on purpose must not lock the account for the tests after it.
ALTER PROFILE DEFAULT LIMIT PASSWORD_LIFE_TIME UNLIMITED FAILED_LOGIN_ATTEMPTS UNLIMITED;
