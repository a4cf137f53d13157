//! How results look: a table for people, JSON for programs.

use clap::ValueEnum;
use clap::builder::styling::Style;
use serde_json::Value;

use super::print;
use crate::wire::ResultEvent;

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Output {
    /// Columns for people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Prints an event: whole as JSON, only its data as a table.
pub(super) fn event(event: &ResultEvent, output: Output) {
    match output {
        Output::Json => print(&printable_json(&event.to_json())),
        Output::Table => {
            let event = serde_json::to_value(event).unwrap_or_default();
            print_table(&["FIELD", "VALUE"], &fields(&event["data"]));
        }
    }
}

/// The fields of an object, one a row; those of an object within it behind a dot.
pub(super) fn fields(object: &Value) -> Vec<Vec<String>> {
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    let rows = |(key, value): (&String, &Value)| match value.as_object() {
        None => vec![vec![key.clone(), text(value)]],
        Some(inner) => inner
            .iter()
            .map(|(name, value)| vec![format!("{key}.{name}"), text(value)])
            .collect(),
    };
    object
        .as_object()
        .into_iter()
        .flatten()
        .flat_map(rows)
        .collect()
}

pub(super) fn print_json(value: &Value) {
    print(&printable_json(&format!("{value:#}")));
}

/// Prints a table, its header bold on a terminal that takes colours (`NO_COLOR` is respected).
pub(super) fn print_table(header: &[&str], rows: &[Vec<String>]) {
    use std::io::Write as _;
    let mut out = anstream::stdout().lock();
    // A reader that has gone away, as `head` does, is no failure.
    let _ = writeln!(out, "{}", table(header, rows));
}

/// Lines of columns, each as wide as its widest cell.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    const BOLD: Style = Style::new().bold();
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    // Cells may quote what others wrote: nothing of it may steer the terminal.
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| printable(cell)).collect())
        .collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |cells: &[&str]| {
        let cells = cells.iter().zip(&widths);
        let padded: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![format!("{BOLD}{}{BOLD:#}", line(header))];
    for row in &rows {
        lines.push(line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    lines.join("\n")
}

/// Whether a character does something to a terminal: moves what it shows, or changes its order.
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if steers(character) {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

/// The same JSON: what JSON itself lets stand in its strings is escaped as well.
fn printable_json(json: &str) -> String {
    use std::fmt::Write as _;
    let mut printable = String::with_capacity(json.len());
    for character in json.chars() {
        if steers(character) && character != '\n' {
            // Writing to a String cannot fail.
            let _ = write!(printable, "\\u{:04x}", u32::from(character));
        } else {
            printable.push(character);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["a".to_owned(), "longer".to_owned()],
            vec!["bcd".to_owned(), String::new()],
        ];
        assert_eq!(
            table(&["X", "Y"], &rows),
            "\u{1b}[1mX    Y\u{1b}[0m\na    longer\nbcd"
        );
    }

    #[test]
    fn no_cell_steers_the_terminal() {
        let rows = vec![vec!["a\u{1b}[2Jb\n".to_owned()]];
        assert!(table(&["X"], &rows).ends_with("\na\\u{1b}[2Jb\\n"));
        assert_eq!(printable("a\u{9b}\u{202e}é"), "a\\u{9b}\\u{202e}é");
    }

    #[test]
    fn no_json_steers_the_terminal_and_it_says_the_same() {
        let value = serde_json::json!({ "a": "\u{1b}\u{7f}\u{9b}2J\u{202e}\u{2066}\né" });
        let shown = printable_json(&format!("{value:#}"));
        assert!(!shown.chars().any(|c| steers(c) && c != '\n'), "{shown:?}");
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
    }
}
