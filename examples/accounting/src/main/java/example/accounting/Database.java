package example.accounting;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.Driver;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.Map;
import java.util.Properties;
import java.util.ServiceLoader;

/**
 * Where the books are kept, as the environment names it: {@code DB_JDBC_URL}, {@code DB_USER} and {@code DB_PASSWORD},
 * or {@code DB_PASSWORD_FILE}, a file whose first line is the password.
 *
 * <p>One connection a request: simple, and a database that comes back is noticed at once. A busy installation puts the
 * servlet container's connection pool here; nothing else of the application would change.
 */
final class Database {

    private static final int LOGIN_SECONDS = 5;

    private final Map<String, String> environment;

    Database(Map<String, String> environment) {
        this.environment = environment;
    }

    boolean isConfigured() {
        return !value("DB_JDBC_URL").isEmpty();
    }

    /**
     * A new connection; the caller closes it.
     *
     * @throws Unavailable no URL, no driver that understands it, or a database that does not let us in
     */
    Connection connect() throws Unavailable {
        if (!isConfigured()) {
            throw new Unavailable("DB_JDBC_URL is not set", null);
        }
        String url = value("DB_JDBC_URL");
        DriverManager.setLoginTimeout(LOGIN_SECONDS); // drivers read it from here also when asked directly
        try {
            // DriverManager looks for drivers once, when the server starts, and so never sees WEB-INF/lib of an
            // application. The service loader does, and any driver put there is found by the URL it accepts.
            for (Driver driver : ServiceLoader.load(Driver.class, Database.class.getClassLoader())) {
                if (driver.acceptsURL(url)) {
                    return driver.connect(url, credentials());
                }
            }
        } catch (SQLException | IOException e) {
            throw new Unavailable("the database cannot be reached, or does not let us in", e);
        }
        throw new Unavailable("WEB-INF/lib holds no JDBC driver for the URL in DB_JDBC_URL", null);
    }

    private Properties credentials() throws IOException {
        Properties properties = new Properties();
        properties.setProperty("user", value("DB_USER"));
        String file = value("DB_PASSWORD_FILE");
        String password = file.isEmpty()
                ? value("DB_PASSWORD")
                : Files.readString(Path.of(file)).lines().findFirst().orElse("");
        properties.setProperty("password", password);
        return properties;
    }

    private String value(String name) {
        return environment.getOrDefault(name, "");
    }

    /** The database is not there. Its message is fit for a client; the cause is for the log only. */
    static final class Unavailable extends Exception {
        private static final long serialVersionUID = 1;

        Unavailable(String message, Exception cause) {
            super(message, cause);
        }
    }
}
