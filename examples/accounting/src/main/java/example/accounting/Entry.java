package example.accounting;

import java.math.BigDecimal;
import java.time.LocalDate;
import java.util.List;

/**
 * A journal entry: what happened, when, and the bookings it consists of.
 *
 * @param voucher the receipt, invoice or statement behind it: its key, so that sending an entry twice books it once
 * @param note free text of any length, or null
 */
record Entry(String voucher, LocalDate bookedOn, String text, String note, List<Booking> bookings) {
    Entry {
        Input.text("voucher", voucher, 40);
        Input.present("bookedOn", bookedOn);
        Input.text("text", text, 200);
        Input.require(bookings != null && !bookings.isEmpty(), "bookings must hold at least one booking");
        bookings.forEach(booking -> Input.present("a booking", booking));
        bookings = List.copyOf(bookings);
    }

    /** An amount that moves between two accounts: always as much debit as credit, so never out of balance. */
    record Booking(String debit, String credit, BigDecimal amount) {
        private static final int DECIMALS = 2;
        private static final int DIGITS = 16; // before the point; with the decimals the 18 of the column

        Booking {
            Input.text("debit", debit, 20);
            Input.text("credit", credit, 20);
            Input.require(!debit.equals(credit), "debit and credit must be different accounts");
            Input.present("amount", amount);
            // The database would round 0.005 to 0.01; money is not rounded behind its owner's back.
            Input.require(amount.scale() <= DECIMALS, "amount has more than two decimals");
            Input.require(amount.signum() > 0, "amount must be positive: swap debit and credit instead");
            Input.require((long) amount.precision() - amount.scale() <= DIGITS, "amount is too large");
        }
    }
}
