-- The journal. The tables themselves keep the books balanced, whoever writes to them.
--
-- The textbook's table has one row for each leg (account, debit or credit, amount), and "the legs of an entry add up
-- to zero" is a rule over several rows. No constraint says that: CHECK sees one row, and a trigger would look at
-- entries that are half written (Oracle has no deferred triggers) and would miss what other sessions have not yet
-- committed. So the rule ends up in application code, and a raw SQL client walks around it.
--
-- Here a row is an amount that MOVES from one account (credit) to another (debit). Debit equals credit in each row
-- by construction, so any set of rows is balanced: an entry, a day, the ledger, after any INSERT, UPDATE, DELETE,
-- half an entry or a concurrent session. There is nothing to compare, to lock or to defer.
--
-- Entries of more than two legs lose nothing: legs that add up to zero can always be written as movements between
-- pairs of accounts, n legs in at most n - 1 rows (match the largest debit with the largest credit, and go on with
-- the rest). "Goods 100.00 and tax 20.00, paid 120.00 from the bank" is two rows of one voucher. Which debit was
-- paired with which credit is the writer's choice and changes no total.
--
-- The voucher (receipt, invoice, statement) is an entry's key: no entry without one, and none booked twice, so a
-- client that does not know whether its request arrived simply sends it again. It also needs no sequence and no
-- identity column, where databases differ most.

CREATE TABLE entry (
  voucher   VARCHAR(40)  NOT NULL,
  booked_on DATE         NOT NULL,
  text      VARCHAR(200) NOT NULL,
  note      CLOB,
  CONSTRAINT entry_pk PRIMARY KEY (voucher),
  CONSTRAINT entry_voucher_given CHECK (TRIM(voucher) IS NOT NULL AND LENGTH(TRIM(voucher)) > 0),
  CONSTRAINT entry_text_given CHECK (TRIM(text) IS NOT NULL AND LENGTH(TRIM(text)) > 0)
);

-- The amount's upper bound is for PostgreSQL: its NUMERIC knows NaN, which is greater than any number, and one NaN
-- would make every total NaN.
CREATE TABLE booking (
  voucher        VARCHAR(40)   NOT NULL,
  line           INTEGER       NOT NULL,
  debit_account  VARCHAR(20)   NOT NULL,
  credit_account VARCHAR(20)   NOT NULL,
  amount         NUMERIC(18,2) NOT NULL,
  CONSTRAINT booking_pk PRIMARY KEY (voucher, line),
  CONSTRAINT booking_entry_fk FOREIGN KEY (voucher) REFERENCES entry (voucher),
  CONSTRAINT booking_debit_fk FOREIGN KEY (debit_account) REFERENCES account (code),
  CONSTRAINT booking_credit_fk FOREIGN KEY (credit_account) REFERENCES account (code),
  CONSTRAINT booking_line_counts CHECK (line >= 1),
  CONSTRAINT booking_moves CHECK (debit_account <> credit_account),
  CONSTRAINT booking_amount_positive CHECK (amount BETWEEN 0.01 AND 9999999999999999.99)
);

-- Without an index on a foreign key Oracle locks and searches the whole table when a parent row goes.
CREATE INDEX booking_debit ON booking (debit_account);
CREATE INDEX booking_credit ON booking (credit_account);
