-- Views only: a total that is stored is a total that can be wrong.

CREATE VIEW posting AS
  SELECT voucher, line, debit_account AS account, amount AS debit, 0 AS credit FROM booking
  UNION ALL
  SELECT voucher, line, credit_account AS account, 0 AS debit, amount AS credit FROM booking;

-- The trial balance: the sums of the columns debit and credit are equal, the sum of the column balance is zero.
CREATE VIEW trial_balance AS
  SELECT a.code,
         a.name,
         COALESCE(SUM(p.debit), 0)            AS debit,
         COALESCE(SUM(p.credit), 0)           AS credit,
         COALESCE(SUM(p.debit - p.credit), 0) AS balance
    FROM account a
    LEFT JOIN posting p ON p.account = a.code
   GROUP BY a.code, a.name;
