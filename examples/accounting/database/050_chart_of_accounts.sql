-- A first chart of accounts. Idempotence is not needed: these scripts run once, on a fresh database.

INSERT INTO account (code, name) VALUES ('1000', 'Cash');
INSERT INTO account (code, name) VALUES ('1200', 'Bank');
INSERT INTO account (code, name) VALUES ('1400', 'Receivables');
INSERT INTO account (code, name) VALUES ('1600', 'Payables');
INSERT INTO account (code, name) VALUES ('1800', 'Input tax');
INSERT INTO account (code, name) VALUES ('2000', 'Equity');
INSERT INTO account (code, name) VALUES ('3000', 'Purchases');
INSERT INTO account (code, name) VALUES ('4000', 'Sales');
INSERT INTO account (code, name) VALUES ('4800', 'Output tax');

COMMIT;
