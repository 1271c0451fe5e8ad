package example.accounting;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.TypeAdapter;
import com.google.gson.stream.JsonReader;
import com.google.gson.stream.JsonWriter;
import java.io.IOException;
import java.math.BigDecimal;
import java.time.LocalDate;
import java.util.function.Function;

/** JSON as this API speaks it: dates in ISO 8601, amounts as strings, so that no client rounds them. */
final class Json {
    private static final Gson GSON = new GsonBuilder()
            .disableHtmlEscaping()
            .registerTypeAdapter(LocalDate.class, asString(LocalDate::parse, LocalDate::toString))
            .registerTypeAdapter(BigDecimal.class, asString(BigDecimal::new, BigDecimal::toPlainString))
            .create();

    private Json() {}

    static String write(Object value) {
        return GSON.toJson(value);
    }

    /** @throws Input.Invalid the text is not JSON, or its values are not what the type accepts */
    static <T> T read(String text, Class<T> type) {
        T value;
        try {
            value = GSON.fromJson(text, type);
        } catch (RuntimeException e) {
            // Gson wraps what a record's constructor throws.
            for (Throwable cause = e; cause != null; cause = cause.getCause()) {
                if (cause instanceof Input.Invalid invalid) {
                    throw invalid;
                }
            }
            throw new Input.Invalid("the body is not the JSON of this resource");
        }
        Input.present("the body", value);
        return value;
    }

    private static <T> TypeAdapter<T> asString(Function<String, T> parse, Function<T, String> format) {
        return new TypeAdapter<T>() {
            @Override
            public T read(JsonReader in) throws IOException {
                return parse.apply(in.nextString()); // Gson hands numbers over as they are written, too
            }

            @Override
            public void write(JsonWriter out, T value) throws IOException {
                out.value(format.apply(value));
            }
        }.nullSafe();
    }
}
