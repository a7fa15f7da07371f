//! Rows under a header, in columns.

use comfy_table::{Table, presets};

use crate::terminal;

/// Rows under a header; what comes from elsewhere stays within its cell.
pub(super) fn rows_under(header: Vec<String>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let in_line = |cell: String| terminal::in_line(&cell).into_owned();
    let rows = rows.into_iter().map(|row| row.into_iter().map(in_line).collect::<Vec<_>>());
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}
