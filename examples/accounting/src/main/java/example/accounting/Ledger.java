package example.accounting;

import java.sql.Connection;
import java.sql.Date;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;

/** The books, over one connection. The SQL is what Oracle and PostgreSQL have in common. */
final class Ledger {

    private static final String ENTRIES = """
            SELECT e.voucher, e.booked_on, e.text, e.note, b.debit_account, b.credit_account, b.amount
              FROM (SELECT voucher, booked_on, text, note FROM entry
                     WHERE voucher > ? AND EXISTS (SELECT 1 FROM booking WHERE booking.voucher = entry.voucher)
                     ORDER BY voucher FETCH FIRST 100 ROWS ONLY) e
              JOIN booking b ON b.voucher = e.voucher
             ORDER BY e.voucher, b.line
            """;

    private final Connection connection;

    Ledger(Connection connection) {
        this.connection = connection;
    }

    List<Account> accounts() throws SQLException {
        try (PreparedStatement select = connection.prepareStatement("SELECT code, name FROM account ORDER BY code");
                ResultSet rows = select.executeQuery()) {
            List<Account> accounts = new ArrayList<>();
            while (rows.next()) {
                accounts.add(new Account(rows.getString(1), rows.getString(2)));
            }
            return accounts;
        }
    }

    Account open(Account account) throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO account (code, name) VALUES (?, ?)")) {
            insert.setString(1, account.code());
            insert.setString(2, account.name());
            insert.executeUpdate();
        }
        return account;
    }

    /** The first hundred entries whose voucher comes after {@code after}, in the order of their vouchers. */
    List<Entry> entries(String after) throws SQLException {
        try (PreparedStatement select = connection.prepareStatement(ENTRIES)) {
            select.setString(1, after);
            try (ResultSet rows = select.executeQuery()) {
                List<Entry> entries = new ArrayList<>();
                boolean more = rows.next();
                while (more) {
                    String voucher = rows.getString("voucher");
                    var bookedOn = rows.getDate("booked_on").toLocalDate();
                    String text = rows.getString("text");
                    String note = rows.getString("note");
                    List<Entry.Booking> bookings = new ArrayList<>();
                    do {
                        bookings.add(new Entry.Booking(
                                rows.getString("debit_account"),
                                rows.getString("credit_account"),
                                rows.getBigDecimal("amount")));
                        more = rows.next();
                    } while (more && rows.getString("voucher").equals(voucher));
                    entries.add(new Entry(voucher, bookedOn, text, note, bookings));
                }
                return entries;
            }
        }
    }

    /** Books the whole entry or nothing of it. */
    Entry book(Entry entry) throws SQLException {
        connection.setAutoCommit(false);
        try {
            insert(entry);
            insertBookings(entry);
            connection.commit();
            return entry;
        } catch (SQLException | RuntimeException e) {
            connection.rollback();
            throw e;
        }
    }

    TrialBalance trialBalance() throws SQLException {
        String sql = "SELECT code, name, debit, credit, balance FROM trial_balance ORDER BY code";
        try (PreparedStatement select = connection.prepareStatement(sql);
                ResultSet rows = select.executeQuery()) {
            List<TrialBalance.Row> accounts = new ArrayList<>();
            while (rows.next()) {
                accounts.add(new TrialBalance.Row(
                        rows.getString(1),
                        rows.getString(2),
                        rows.getBigDecimal(3),
                        rows.getBigDecimal(4),
                        rows.getBigDecimal(5)));
            }
            return TrialBalance.of(accounts);
        }
    }

    private void insert(Entry entry) throws SQLException {
        String sql = "INSERT INTO entry (voucher, booked_on, text, note) VALUES (?, ?, ?, ?)";
        try (PreparedStatement insert = connection.prepareStatement(sql)) {
            insert.setString(1, entry.voucher());
            insert.setDate(2, Date.valueOf(entry.bookedOn()));
            insert.setString(3, entry.text());
            insert.setString(4, entry.note());
            insert.executeUpdate();
        }
    }

    private void insertBookings(Entry entry) throws SQLException {
        String sql = """
                INSERT INTO booking (voucher, line, debit_account, credit_account, amount) VALUES (?, ?, ?, ?, ?)
                """;
        try (PreparedStatement insert = connection.prepareStatement(sql)) {
            int line = 0;
            for (Entry.Booking booking : entry.bookings()) {
                insert.setString(1, entry.voucher());
                insert.setInt(2, ++line);
                insert.setString(3, booking.debit());
                insert.setString(4, booking.credit());
                insert.setBigDecimal(5, booking.amount());
                insert.addBatch();
            }
            insert.executeBatch();
        }
    }
}
