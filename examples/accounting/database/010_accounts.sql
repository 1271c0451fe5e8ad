-- The chart of accounts.
--
-- These scripts use the SQL that Oracle and PostgreSQL share, but for one type, CLOB, and one file, 030. ANSI type
-- names do it: Oracle turns INTEGER into NUMBER(38), NUMERIC(18,2) into NUMBER(18,2) and VARCHAR into VARCHAR2.
-- (Oracle counts the lengths in bytes unless the database's NLS_LENGTH_SEMANTICS says CHAR.)

-- Two conditions each, because Oracle's empty string is NULL (and a check that is unknown passes), PostgreSQL's is not.
-- (A comment stands above its statement, not in it: the stand-in misreads some CREATE TABLE with comments inside.)
CREATE TABLE account (
  code VARCHAR(20)  NOT NULL,
  name VARCHAR(100) NOT NULL,
  CONSTRAINT account_pk PRIMARY KEY (code),
  CONSTRAINT account_code_given CHECK (TRIM(code) IS NOT NULL AND LENGTH(TRIM(code)) > 0),
  CONSTRAINT account_name_given CHECK (TRIM(name) IS NOT NULL AND LENGTH(TRIM(name)) > 0)
);
