package example.accounting;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import java.io.IOException;
import java.io.Reader;
import java.math.BigDecimal;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.SQLException;
import java.time.LocalDate;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import org.junit.After;
import org.junit.Before;
import org.junit.Test;

/**
 * The books on a real database: the one of the profile {@code integrationTest}, whose address stands in the file that
 * the system property {@code database.properties} names.
 */
public class LedgerIT {

    private final String mark = UUID.randomUUID().toString().substring(0, 8); // accounts and vouchers of this test alone
    private Connection connection;
    private Ledger ledger;

    @Before
    public void connect() throws Exception {
        Properties address = address();
        connection = new Database(Map.of(
                "DB_JDBC_URL", address.getProperty("db.jdbc.url"),
                "DB_USER", address.getProperty("db.user"),
                "DB_PASSWORD", address.getProperty("db.password"))).connect();
        ledger = new Ledger(connection);
    }

    @After
    public void disconnect() throws SQLException {
        if (connection != null) {
            connection.close();
        }
    }

    @Test
    public void whatIsBookedStandsInBothAccounts() throws SQLException {
        Account till = ledger.open(new Account("T-" + mark, "Till"));
        Account sales = ledger.open(new Account("S-" + mark, "Sales"));
        ledger.book(entry("V-" + mark, till, sales));
        assertEquals(new BigDecimal("100.00"), balance(till));
        assertEquals(new BigDecimal("-100.00"), balance(sales));
    }

    @Test
    public void aVoucherIsBookedOnce() throws SQLException {
        Account till = ledger.open(new Account("T-" + mark, "Till"));
        Account sales = ledger.open(new Account("S-" + mark, "Sales"));
        ledger.book(entry("V-" + mark, till, sales));
        assertThrows(SQLException.class, () -> ledger.book(entry("V-" + mark, till, sales)));
        assertEquals(new BigDecimal("100.00"), balance(till));
    }

    private static Entry entry(String voucher, Account debit, Account credit) {
        var booking = new Entry.Booking(debit.code(), credit.code(), new BigDecimal("100.00"));
        return new Entry(voucher, LocalDate.of(2026, 1, 31), "Goods", null, List.of(booking));
    }

    private BigDecimal balance(Account account) throws SQLException {
        return ledger.trialBalance().accounts().stream()
                .filter(row -> row.code().equals(account.code()))
                .findFirst()
                .orElseThrow()
                .balance();
    }

    private static Properties address() throws IOException {
        Properties found = new Properties();
        try (Reader reader = Files.newBufferedReader(Path.of(System.getProperty("database.properties")))) {
            found.load(reader);
        }
        return found;
    }
}
