package example.accounting;

import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.sql.SQLException;
import java.util.Map;

/** Answers in JSON, errors included: {@code {"error": "what and why"}}. */
abstract class JsonServlet extends HttpServlet {
    private static final long serialVersionUID = 1;
    private static final int LARGEST_BODY = 1 << 20; // bytes
    private static final String DATA_EXCEPTION = "22"; // SQLSTATE classes, of the SQL standard
    private static final String INTEGRITY_CONSTRAINT_VIOLATION = "23";

    /** What a handler answers. */
    record Answer(int status, Object body) {
        static Answer ok(Object body) {
            return new Answer(HttpServletResponse.SC_OK, body);
        }

        static Answer error(int status, String message) {
            return new Answer(status, Map.of("error", message));
        }
    }

    Answer get(HttpServletRequest request) throws IOException, SQLException, Database.Unavailable {
        return Answer.error(HttpServletResponse.SC_METHOD_NOT_ALLOWED, "no GET here");
    }

    Answer post(HttpServletRequest request) throws IOException, SQLException, Database.Unavailable {
        return Answer.error(HttpServletResponse.SC_METHOD_NOT_ALLOWED, "no POST here");
    }

    @Override
    protected final void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
        answer(response, () -> get(request));
    }

    @Override
    protected final void doPost(HttpServletRequest request, HttpServletResponse response) throws IOException {
        answer(response, () -> post(request));
    }

    static <T> T body(HttpServletRequest request, Class<T> type) throws IOException {
        byte[] bytes = request.getInputStream().readNBytes(LARGEST_BODY + 1);
        Input.require(bytes.length <= LARGEST_BODY, "the body is larger than " + LARGEST_BODY + " bytes");
        return Json.read(new String(bytes, StandardCharsets.UTF_8), type);
    }

    private interface Handler {
        Answer handle() throws IOException, SQLException, Database.Unavailable;
    }

    private void answer(HttpServletResponse response, Handler handler) throws IOException {
        Answer answer;
        try {
            answer = handler.handle();
        } catch (Input.Invalid e) {
            answer = Answer.error(HttpServletResponse.SC_BAD_REQUEST, e.getMessage());
        } catch (Database.Unavailable e) {
            log(e.getMessage(), e);
            answer = Answer.error(HttpServletResponse.SC_SERVICE_UNAVAILABLE, e.getMessage());
        } catch (SQLException e) {
            answer = refused(e);
        }
        byte[] bytes = Json.write(answer.body()).getBytes(StandardCharsets.UTF_8);
        response.setStatus(answer.status());
        response.setContentType("application/json");
        response.setHeader("Cache-Control", "no-store");
        response.setContentLength(bytes.length);
        response.getOutputStream().write(bytes);
    }

    /** The text of a database's error is for the log: it may quote statements and names a client has no need of. */
    private Answer refused(SQLException e) {
        String state = e.getSQLState() == null ? "" : e.getSQLState();
        if (state.startsWith(DATA_EXCEPTION)) {
            log("the database cannot hold a value: " + e.getMessage());
            return Answer.error(HttpServletResponse.SC_BAD_REQUEST, "a value the database cannot hold");
        }
        if (state.startsWith(INTEGRITY_CONSTRAINT_VIOLATION)) {
            log("the database refused: " + e.getMessage());
            return Answer.error(
                    HttpServletResponse.SC_CONFLICT,
                    "against the rules of the books: an account is unknown, or this was booked or opened before");
        }
        log("the database failed", e);
        return Answer.error(HttpServletResponse.SC_INTERNAL_SERVER_ERROR, "the database failed; the log says why");
    }
}
