package example.accounting;

import jakarta.servlet.http.HttpServletRequest;
import java.sql.Connection;
import java.sql.SQLException;

/**
 * {@code GET /health}: 200 as long as the application answers. The database's state is told beside it, and does not
 * change the status: to restart every Tomcat because the database is away would only make a second outage.
 */
public final class HealthServlet extends JsonServlet {
    private static final long serialVersionUID = 1;
    private static final int PATIENCE_SECONDS = 2;

    private record Health(String status, State database) {}

    /** @param reason why the state is not up; null where there is nothing to say */
    private record State(String state, String reason) {}

    @Override
    Answer get(HttpServletRequest request) {
        return Answer.ok(new Health("up", database()));
    }

    private State database() {
        Database database = new Database(System.getenv());
        if (!database.isConfigured()) {
            return new State("not configured", null);
        }
        try (Connection connection = database.connect()) {
            return connection.isValid(PATIENCE_SECONDS)
                    ? new State("up", null)
                    : new State("down", "it let us in and does not answer");
        } catch (Database.Unavailable | SQLException e) {
            log("health: " + e.getMessage(), e);
            return new State("down", e instanceof Database.Unavailable ? e.getMessage() : "it failed while in use");
        }
    }
}
