package example.accounting;

import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.sql.Connection;
import java.sql.SQLException;

/**
 * The books over HTTP: {@code GET|POST /accounts}, {@code GET|POST /entries} ({@code GET /entries?after=VOUCHER}
 * for the next page), {@code GET /trial-balance}.
 */
public final class LedgerServlet extends JsonServlet {
    private static final long serialVersionUID = 1;

    @Override
    Answer get(HttpServletRequest request) throws SQLException, Database.Unavailable {
        String resource = request.getServletPath();
        try (Connection connection = new Database(System.getenv()).connect()) {
            Ledger ledger = new Ledger(connection);
            return Answer.ok(
                    switch (resource) {
                        case "/accounts" -> ledger.accounts();
                        case "/entries" -> ledger.entries(after(request));
                        case "/trial-balance" -> ledger.trialBalance();
                        default -> throw new IllegalStateException("web.xml maps " + resource + " here");
                    });
        }
    }

    @Override
    Answer post(HttpServletRequest request) throws IOException, SQLException, Database.Unavailable {
        return switch (request.getServletPath()) {
            case "/accounts" -> {
                Account account = body(request, Account.class);
                yield created(ledger -> ledger.open(account));
            }
            case "/entries" -> {
                Entry entry = body(request, Entry.class);
                yield created(ledger -> ledger.book(entry));
            }
            default -> super.post(request);
        };
    }

    private interface Work {
        Object on(Ledger ledger) throws SQLException;
    }

    private static Answer created(Work work) throws SQLException, Database.Unavailable {
        try (Connection connection = new Database(System.getenv()).connect()) {
            return new Answer(HttpServletResponse.SC_CREATED, work.on(new Ledger(connection)));
        }
    }

    private static String after(HttpServletRequest request) {
        String after = request.getParameter("after");
        // Oracle takes an empty string for NULL, and nothing comes after NULL; a blank comes before any voucher.
        return after == null || after.isEmpty() ? " " : after;
    }
}
