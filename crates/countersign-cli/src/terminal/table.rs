//! Tables for people.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use console::Term;

/// A table, built row by row.
pub(crate) struct Rows(Table);

/// The title of a column. Numbers are aligned to the right.
#[derive(Clone, Copy)]
pub(crate) enum Column {
    Text(&'static str),
    Number(&'static str),
}

impl Rows {
    /// A table without rows.
    pub(crate) fn new(columns: &[Column]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED.with_rounded_corners());
        // As wide as the terminal; a file or a pipe gets every line whole.
        match Term::stdout().size_checked() {
            Some((_, width)) => {
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        table.set_header(columns.iter().map(|column| match column {
            Column::Text(title) | Column::Number(title) => Cell::new(title),
        }));
        for (n, column) in columns.iter().enumerate() {
            if let (Column::Number(_), Some(column)) = (column, table.column_mut(n)) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self(table)
    }

    /// Adds a row.
    pub(crate) fn add<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.0.add_row(cells.into_iter().map(Into::into).collect::<Vec<String>>());
    }

    /// The table as text, without the last line end.
    pub(crate) fn print(&self) -> String {
        self.0.to_string()
    }
}

/// A count with its thousands set apart.
pub(crate) fn count(n: impl TryInto<u64>) -> String {
    indicatif::HumanCount(n.try_into().unwrap_or(u64::MAX)).to_string()
}

/// A count with its noun: `1 message`, `12,345 messages`.
pub(crate) fn quantity(n: impl TryInto<u64>, noun: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// The line below a list that is cut off.
pub(crate) fn first_of(shown: usize, all: Option<u64>) -> String {
    let all = all.map_or_else(|| "more".to_owned(), count);
    format!("first {} of {all}; --all, or --limit N", count(shown))
}
