package example.accounting;

/** Checks on what a client sends. They name the field; the rules that must never break are the database's own. */
final class Input {
    private Input() {}

    static void require(boolean holds, String message) {
        if (!holds) {
            throw new Invalid(message);
        }
    }

    static void present(String name, Object value) {
        require(value != null, name + " is missing");
    }

    /** Blank and longest mean what they mean to the database, which may have been filled by others than us. */
    static void text(String name, String value, int longest) {
        require(value != null && !value.replace(" ", "").isEmpty(), name + " is missing or blank");
        require(
                value.codePointCount(0, value.length()) <= longest,
                name + " is longer than " + longest + " characters");
    }

    /** The client's mistake; the message is meant for the client. */
    static final class Invalid extends IllegalArgumentException {
        private static final long serialVersionUID = 1;

        Invalid(String message) {
            super(message);
        }
    }
}
