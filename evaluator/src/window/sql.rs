//! Names and values inside SQL text, always quoted here and nowhere else.

/// A column's or table's name, case kept.
pub(crate) fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text literal.
pub(crate) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A text literal that is one value however many rows it stands beside: an argument that says how a function works. A plain literal is
/// written out for every row of a batch, which takes more than the rows where it is long.
pub(crate) fn constant(constant: &str) -> String {
    format!("arrow_cast({}, 'Dictionary(Int8, Utf8)')", text(constant))
}

/// Text literals for `IN (…)`. An empty list matches nothing.
pub(crate) fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    let list: Vec<String> = values.into_iter().map(text).collect();
    if list.is_empty() { "NULL".to_owned() } else { list.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_cannot_be_left() {
        assert_eq!(name("a\"b"), "\"a\"\"b\"");
        assert_eq!(text("it's"), "'it''s'");
        assert_eq!(constant("it's"), "arrow_cast('it''s', 'Dictionary(Int8, Utf8)')");
        assert_eq!(texts(["a", "b"]), "'a', 'b'");
        assert_eq!(texts([]), "NULL");
    }
}
