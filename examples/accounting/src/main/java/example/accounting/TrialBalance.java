package example.accounting;

import java.math.BigDecimal;
import java.util.List;

/** Every account with its totals, and the totals of all: debit and credit are equal, or the books are broken. */
record TrialBalance(List<Row> accounts, BigDecimal debit, BigDecimal credit) {

    static TrialBalance of(List<Row> accounts) {
        return new TrialBalance(
                accounts,
                accounts.stream().map(Row::debit).reduce(BigDecimal.ZERO, BigDecimal::add),
                accounts.stream().map(Row::credit).reduce(BigDecimal.ZERO, BigDecimal::add));
    }

    /** @param balance debit less credit */
    record Row(String code, String name, BigDecimal debit, BigDecimal credit, BigDecimal balance) {}
}
