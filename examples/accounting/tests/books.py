"""The ledger as a raw SQL client sees and attacks it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import oracledb

Connect = Callable[[], oracledb.Connection]


@dataclass(frozen=True)
class Books:
    """The ledger over one connection: no application stands between these tests and the tables.

    Bookings are never deleted, so each test has accounts and vouchers of its own, and runs on a database in use.
    """

    connection: oracledb.Connection

    def execute(self, sql: str, **binds: object) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, binds)

    def select(self, sql: str, **binds: object) -> list[tuple[object, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, binds)
            return list(cursor.fetchall())

    def commit(self) -> None:
        self.connection.commit()

    def new_account(self) -> str:
        """Opens an account nobody else knows and commits it; its code."""
        code = unique()
        self.execute("INSERT INTO account (code, name) VALUES (:code, :name)", code=code, name=f"Account {code}")
        self.commit()
        return code

    def new_entry(self, voucher: str | None = None, text: str = "a test", note: str | None = None) -> str:
        """Writes an entry without bookings, not committed; its voucher."""
        voucher = voucher or unique()
        with self.connection.cursor() as cursor:
            cursor.setinputsizes(note=oracledb.DB_TYPE_CLOB)
            cursor.execute(
                "INSERT INTO entry (voucher, booked_on, text, note) VALUES (:voucher, :booked_on, :text, :note)",
                {"voucher": voucher, "booked_on": date(2026, 1, 31), "text": text, "note": note},
            )
        return voucher

    def add_booking(self, voucher: str | None, debit: str | None, credit: str | None, amount: object, line: int = 1) -> None:
        """Writes one movement of money, not committed."""
        self.execute(
            "INSERT INTO booking (voucher, line, debit_account, credit_account, amount) VALUES (:voucher, :line, :debit, :credit, :amount)",
            voucher=voucher,
            line=line,
            debit=debit,
            credit=credit,
            amount=amount,
        )

    def balance(self, account: str) -> tuple[Decimal, Decimal, Decimal]:
        """Debit, credit and balance of an account in the trial balance."""
        [(debit, credit, balance)] = self.select("SELECT debit, credit, balance FROM trial_balance WHERE code = :code", code=account)
        return Decimal(str(debit)), Decimal(str(credit)), Decimal(str(balance))

    def totals(self) -> tuple[Decimal, Decimal, Decimal]:
        """Debit, credit and balance of all accounts together."""
        [(debit, credit, balance)] = self.select("SELECT SUM(debit), SUM(credit), SUM(balance) FROM trial_balance")
        return Decimal(str(debit)), Decimal(str(credit)), Decimal(str(balance))

    def assert_balanced(self) -> None:
        debit, credit, balance = self.totals()
        assert debit == credit, "the columns of the trial balance differ"
        assert balance == 0


def unique() -> str:
    """A code or voucher that no other test, thread or run uses; fits an account's 20 characters."""
    return f"T{uuid.uuid4().hex[:16]}"
