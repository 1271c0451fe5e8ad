package example.accounting;

/** An account of the chart of accounts. The code is its identity, the way accountants know it: {@code 1000}. */
record Account(String code, String name) {
    Account {
        Input.text("code", code, 20);
        Input.text("name", name, 100);
    }
}
