"""The ledger keeps its books balanced, whoever writes to it and however many at once.

The tests speak SQL, not HTTP: what the application would prevent is exactly what they try.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from decimal import Decimal
from typing import TypeVar

import oracledb
import pytest
from books import Books, Connect, unique

UNIQUE_VIOLATED = "ORA-00001"
CANNOT_BE_NULL = ["ORA-01400", "ORA-01407"]
CHECK_VIOLATED = "ORA-02290"
NO_PARENT = "ORA-02291"
# Oracle says ORA-02292 where a parent row still has children; the stand-in says the same as for a missing parent.
HAS_CHILDREN = ["ORA-02292", "ORA-02291"]
TOO_LARGE = "ORA-01438"
NO_NUMBER = "ORA-01722"
APPEND_ONLY = "ORA-20001"

ZERO = Decimal(0)
NOTHING = (ZERO, ZERO, ZERO)


def refused(error: pytest.ExceptionInfo[oracledb.DatabaseError]) -> str:
    """The code a statement was refused with; a table that is not there would be a refusal, too, but a wrong one."""
    return str(error.value.args[0].full_code)


# --- the trial balance


def test_booking_adds_the_same_amount_to_both_sides(books: Books) -> None:
    cash, sales = books.new_account(), books.new_account()
    voucher = books.new_entry()
    books.add_booking(voucher, debit=cash, credit=sales, amount=Decimal("12.34"))
    books.commit()
    assert books.balance(cash) == (Decimal("12.34"), ZERO, Decimal("12.34"))
    assert books.balance(sales) == (ZERO, Decimal("12.34"), Decimal("-12.34"))
    books.assert_balanced()


def test_entry_of_several_legs_is_balanced_in_each_account(books: Books) -> None:
    goods, tax, bank = books.new_account(), books.new_account(), books.new_account()
    voucher = books.new_entry(text="goods with tax, paid by transfer")
    books.add_booking(voucher, debit=goods, credit=bank, amount=Decimal("100.00"), line=1)
    books.add_booking(voucher, debit=tax, credit=bank, amount=Decimal("20.00"), line=2)
    books.commit()
    assert [books.balance(account)[2] for account in (goods, tax, bank)] == [100, 20, -120]
    books.assert_balanced()


def test_account_without_bookings_is_in_the_trial_balance_with_zeros(books: Books) -> None:
    assert books.balance(books.new_account()) == NOTHING


def test_cents_add_up_exactly(books: Books) -> None:
    cash, sales = books.new_account(), books.new_account()
    voucher = books.new_entry()
    for line in range(1, 11):
        books.add_booking(voucher, cash, sales, Decimal("0.10"), line)
    books.add_booking(voucher, cash, sales, Decimal("9999999999999999.99"), 11)
    books.commit()
    assert books.balance(cash)[0] == Decimal("10000000000000000.99")


# --- attacks with raw SQL


@pytest.mark.parametrize(
    ("amount", "codes"),
    [
        pytest.param(Decimal("-0.01"), [CHECK_VIOLATED], id="negative"),
        pytest.param(0, [CHECK_VIOLATED], id="zero"),
        pytest.param(Decimal("0.004"), [CHECK_VIOLATED], id="rounds to zero"),
        pytest.param(None, CANNOT_BE_NULL, id="missing"),
        pytest.param(Decimal("1E+16"), [TOO_LARGE], id="too large"),
        # To PostgreSQL, which is behind the stand-in, NaN is a number, and the greatest of all.
        pytest.param("NaN", [CHECK_VIOLATED, NO_NUMBER], id="not a number"),
    ],
)
def test_amount_that_is_no_amount_is_refused(books: Books, amount: object, codes: list[str]) -> None:
    cash, sales = books.new_account(), books.new_account()
    voucher = books.new_entry()
    with pytest.raises(oracledb.DatabaseError) as error:
        books.add_booking(voucher, cash, sales, amount)
    assert refused(error) in codes
    books.assert_balanced()


@pytest.mark.parametrize(
    ("debit", "credit", "codes"),
    [
        pytest.param("1000", None, CANNOT_BE_NULL, id="no credit"),
        pytest.param(None, "1000", CANNOT_BE_NULL, id="no debit"),
        pytest.param("1000", "nowhere", [NO_PARENT], id="credit to an unknown account"),
        pytest.param("nowhere", "1000", [NO_PARENT], id="debit to an unknown account"),
        pytest.param("1000", "1000", [CHECK_VIOLATED], id="to itself"),
    ],
)
def test_booking_with_one_leg_is_refused(books: Books, debit: str | None, credit: str | None, codes: list[str]) -> None:
    voucher = books.new_entry()
    with pytest.raises(oracledb.DatabaseError) as error:
        books.add_booking(voucher, debit, credit, 1)
    assert refused(error) in codes
    books.assert_balanced()


def test_booking_without_an_entry_is_refused(books: Books) -> None:
    with pytest.raises(oracledb.DatabaseError) as error:
        books.add_booking(unique(), "1000", "4000", 1)
    assert refused(error) == NO_PARENT


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE booking SET amount = amount + 1 WHERE voucher = :voucher",
        "UPDATE booking SET credit_account = '1200' WHERE voucher = :voucher",
        "DELETE FROM booking WHERE voucher = :voucher",
        "UPDATE entry SET booked_on = DATE '1999-12-31' WHERE voucher = :voucher",
    ],
)
def test_what_is_booked_stays_booked(books: Books, attack: str) -> None:
    cash, sales = books.new_account(), books.new_account()
    voucher = books.new_entry()
    books.add_booking(voucher, cash, sales, 5)
    books.commit()
    with pytest.raises(oracledb.DatabaseError) as error:
        books.execute(attack, voucher=voucher)
    assert refused(error) == APPEND_ONLY
    books.commit()
    assert books.balance(cash)[0] == 5
    assert books.select("SELECT booked_on FROM entry WHERE voucher = :voucher", voucher=voucher) == [(datetime(2026, 1, 31),)]


@pytest.mark.parametrize(
    "attack",
    ["DELETE FROM account WHERE code = :code", "UPDATE account SET code = 'X' || SUBSTR(:code, 2) WHERE code = :code"],
)
@pytest.mark.parametrize("side", ["debit", "credit"])
def test_account_in_use_cannot_disappear(books: Books, attack: str, side: str) -> None:
    account, other = books.new_account(), books.new_account()
    debit, credit = (account, other) if side == "debit" else (other, account)
    books.add_booking(books.new_entry(), debit, credit, 5)
    books.commit()
    with pytest.raises(oracledb.DatabaseError) as error:
        books.execute(attack, code=account)
    assert refused(error) in HAS_CHILDREN
    books.commit()
    books.assert_balanced()


@pytest.mark.parametrize("blank", ["", "   "])
def test_account_without_a_name_is_refused(books: Books, blank: str) -> None:
    with pytest.raises(oracledb.DatabaseError) as error:
        books.execute("INSERT INTO account (code, name) VALUES (:code, :name)", code=unique(), name=blank)
    assert refused(error) in [CHECK_VIOLATED, *CANNOT_BE_NULL]  # to Oracle '' is NULL


# --- transactions


def test_rollback_leaves_nothing(books: Books) -> None:
    cash, sales = books.new_account(), books.new_account()
    voucher = books.new_entry()
    books.add_booking(voucher, cash, sales, 5)
    assert books.balance(cash)[0] == 5, "a transaction sees what it wrote"
    books.connection.rollback()
    assert books.balance(cash) == NOTHING
    assert books.select("SELECT COUNT(*) FROM entry WHERE voucher = :voucher", voucher=voucher) == [(0,)]


def test_others_see_an_entry_when_it_is_committed_and_not_before(books: Books, connect: Connect) -> None:
    other = Books(connect())
    cash, sales = books.new_account(), books.new_account()
    books.add_booking(books.new_entry(), cash, sales, 5)
    assert other.balance(cash)[0] == 0
    books.commit()
    other.commit()
    assert other.balance(cash)[0] == 5


def test_client_that_goes_away_leaves_nothing(books: Books, connect: Connect) -> None:
    cash, sales = books.new_account(), books.new_account()
    leaving = Books(connect())
    leaving.add_booking(leaving.new_entry(), cash, sales, 5)
    leaving.connection.close()
    assert books.balance(cash) == NOTHING


def test_half_an_entry_is_balanced_too(books: Books) -> None:
    """A client that ignores an error and commits what it has got cannot do harm."""
    goods, bank = books.new_account(), books.new_account()
    voucher = books.new_entry()
    books.add_booking(voucher, goods, bank, 100, line=1)
    with pytest.raises(oracledb.DatabaseError) as error:
        books.add_booking(voucher, "nowhere", bank, 20, line=2)
    assert refused(error) == NO_PARENT
    books.commit()
    assert [books.balance(account)[2] for account in (goods, bank)] == [100, -100]
    books.assert_balanced()


# --- many at once


Result = TypeVar("Result")


def in_parallel(connect: Connect, work: Callable[[int, Books], Result], sessions: int) -> list[Result]:
    """The results of `work` done at the same moment in sessions of their own."""
    everybody_is_here = threading.Barrier(sessions, timeout=30)
    sets_of_books = [Books(connect()) for _ in range(sessions)]

    def run(number: int) -> Result:
        everybody_is_here.wait()
        return work(number, sets_of_books[number])

    with ThreadPoolExecutor(sessions) as pool:
        return list(pool.map(run, range(sessions)))


def test_concurrent_bookings_keep_the_balance_at_every_moment(books: Books, connect: Connect) -> None:
    """Writers move money in a ring, half of them rolling back, while readers look as often as they can."""
    writers, readers, rounds = 4, 2, 15
    ring = [books.new_account() for _ in range(writers)]
    finished = [threading.Event() for _ in range(writers)]

    def write(number: int, mine: Books) -> int:
        try:
            for turn in range(rounds):
                voucher = mine.new_entry()
                mine.add_booking(voucher, ring[number], ring[(number + 1) % writers], Decimal(number + 1), 1)
                mine.add_booking(voucher, ring[number], ring[(number + 2) % writers], Decimal("0.01"), 2)
                if turn % 2:
                    mine.connection.rollback()
                else:
                    mine.commit()
        finally:
            finished[number].set()
        return 0

    def read(mine: Books) -> int:
        looks = 0
        while not all(event.is_set() for event in finished):
            mine.assert_balanced()
            mine.commit()
            looks += 1
        return looks

    def work(number: int, mine: Books) -> int:
        return write(number, mine) if number < writers else read(mine)

    looks = sum(in_parallel(connect, work, writers + readers))
    assert looks > 0, "nobody looked while the writers were writing: the test shows nothing"
    committed = (rounds + 1) // 2
    for number, account in enumerate(ring):
        paid_by = (number - 1) % writers
        debit = committed * (Decimal(number + 1) + Decimal("0.01"))
        credit = committed * (Decimal(paid_by + 1) + Decimal("0.01"))
        assert books.balance(account) == (debit, credit, debit - credit)
    books.assert_balanced()


def test_voucher_is_booked_once_however_many_try(books: Books, connect: Connect) -> None:
    cash, sales = books.new_account(), books.new_account()
    voucher = unique()

    def book(_number: int, mine: Books) -> str:
        try:
            mine.new_entry(voucher)
        except oracledb.IntegrityError as error:
            return str(error.args[0].full_code)
        mine.add_booking(voucher, cash, sales, 5)
        mine.commit()
        return "booked"

    outcomes = in_parallel(connect, book, sessions=5)
    assert sorted(outcomes) == [UNIQUE_VIOLATED] * 4 + ["booked"]
    assert books.balance(cash)[0] == 5


# --- values come back as they were written


@pytest.mark.parametrize("day", [date(2024, 2, 29), date(1999, 12, 31), date(9999, 12, 31)])
def test_dates_survive(books: Books, day: date) -> None:
    voucher = unique()
    books.execute("INSERT INTO entry (voucher, booked_on, text) VALUES (:voucher, :day, 'a day')", voucher=voucher, day=day)
    books.commit()
    assert books.select("SELECT booked_on FROM entry WHERE voucher = :voucher", voucher=voucher) == [
        (datetime(day.year, day.month, day.day),)
    ]


@pytest.mark.parametrize("note", ["kurz", "Überweisung für 東京 · 12 € 😀\n" * 4000], ids=["short", "longer than 32 KiB"])
def test_text_and_notes_survive(books: Books, note: str) -> None:
    text = "Grüße, Ćevapčići & 寿司 😀 'quoted'; -- no comment"
    voucher = books.new_entry(text=text, note=note)
    books.commit()
    assert books.select("SELECT text, note FROM entry WHERE voucher = :voucher", voucher=voucher) == [(text, note)]
