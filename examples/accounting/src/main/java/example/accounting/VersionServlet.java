package example.accounting;

import jakarta.servlet.http.HttpServletRequest;

/**
 * {@code GET /version}: branch and commit, from the environment the container was started with. They are not built
 * in: commits that change nothing in the image share it.
 */
public final class VersionServlet extends JsonServlet {
    private static final long serialVersionUID = 1;

    private record Version(String application, String branch, String commit) {}

    @Override
    Answer get(HttpServletRequest request) {
        return Answer.ok(new Version("accounting", environment("APP_BRANCH"), environment("APP_COMMIT")));
    }

    private static String environment(String name) {
        String value = System.getenv(name);
        return value == null || value.isBlank() ? "unknown" : value;
    }
}
