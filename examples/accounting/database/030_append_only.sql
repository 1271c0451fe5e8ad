-- What is booked stays booked: a mistake is corrected by a second entry with the accounts swapped.
--
-- This is about the trail, not about the balance, which tables alone keep (see 020). It is as strong as a trigger
-- is: it stops every UPDATE and DELETE, but not TRUNCATE, and the owner of the tables can drop it. Where that
-- matters, let one user own these tables and the application log in as another that was granted only INSERT and
-- SELECT.
--
-- PL/SQL: on a PostgreSQL without it the same is a function that raises and a trigger that calls it.

CREATE OR REPLACE TRIGGER booking_append_only
BEFORE UPDATE OR DELETE ON booking
FOR EACH ROW
BEGIN
  RAISE_APPLICATION_ERROR(-20001, 'bookings are never changed: book the reverse');
END;
/

CREATE OR REPLACE TRIGGER entry_append_only
BEFORE UPDATE OR DELETE ON entry
FOR EACH ROW
BEGIN
  RAISE_APPLICATION_ERROR(-20001, 'entries are never changed: book the reverse');
END;
/
