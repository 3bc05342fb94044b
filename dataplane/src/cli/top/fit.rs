//! What fits on the screen: columns and pieces of text are shown whole or not at all.

use ratatui::layout::Constraint;
use ratatui::widgets::{Cell, Row, Table};

/// A column of a table.
#[derive(Clone, Debug)]
pub(super) struct Column {
    header: &'static str,
    /// Numbers stand to the right.
    right: bool,
    /// The greater, the longer it stays when the screen is narrow.
    rank: u8,
    cells: Vec<String>,
    /// At least so wide, so that it does not jump about with its numbers.
    least: usize,
}

impl Column {
    /// Numbers, up to `least` characters long as a rule.
    pub(super) fn numbers(header: &'static str, rank: u8, least: usize) -> Self {
        Self { header, right: true, rank, cells: Vec::new(), least }
    }

    /// Text.
    pub(super) fn text(header: &'static str, rank: u8) -> Self {
        Self { right: false, ..Self::numbers(header, rank, 0) }
    }

    pub(super) fn push(&mut self, cell: String) {
        self.cells.push(cell);
    }

    fn width(&self) -> usize {
        let cells = self.cells.iter().map(|cell| cell.chars().count());
        cells.chain([self.header.chars().count(), self.least]).max().unwrap_or_default()
    }
}

/// The columns that fit into `room` characters with a blank between two, by rank; in their order, with their widths.
fn fitting(columns: &[Column], room: usize) -> Vec<(&Column, usize)> {
    let mut by_rank: Vec<usize> = (0..columns.len()).collect();
    by_rank.sort_by_key(|index| std::cmp::Reverse(columns[*index].rank));
    let mut taken = Vec::new();
    let mut left = room + 1;
    for index in by_rank {
        let width = columns[index].width() + 1;
        // The first is shown in any case, cut if it must be.
        let width = if taken.is_empty() { width.min(left) } else { width };
        if width > left {
            continue;
        }
        left -= width;
        taken.push((index, width - 1));
    }
    taken.sort_unstable();
    taken.into_iter().map(|(index, width)| (&columns[index], width)).collect()
}

/// The characters that are left beside the columns that fit into `room`, for one more.
pub(super) fn left_over(columns: &[Column], room: u16) -> usize {
    let used = fitting(columns, room.into()).iter().map(|(_, width)| width + 1).sum();
    usize::from(room).saturating_sub(used)
}

/// A table of those of `columns` that fit into `room` characters. `dress` gives a row its style.
pub(super) fn table(
    columns: &[Column],
    room: u16,
    dress: impl Fn(usize, Row<'static>) -> Row<'static>,
) -> Table<'static> {
    let shown = fitting(columns, room.into());
    let cell = |text: &str, (column, width): &(&Column, usize)| {
        let width = *width;
        Cell::from(if column.right { format!("{text:>width$}") } else { text.to_owned() })
    };
    let count = columns.first().map_or(0, |column| column.cells.len());
    let rows = (0..count).map(|row| {
        let cells = shown.iter().map(|column| cell(&column.0.cells[row], column));
        dress(row, Row::new(cells.collect::<Vec<_>>()))
    });
    let widths = shown.iter().map(|(_, width)| Constraint::Length(u16::try_from(*width).unwrap_or(u16::MAX)));
    let header = Row::new(shown.iter().map(|column| cell(column.0.header, column)).collect::<Vec<_>>());
    Table::new(rows.collect::<Vec<_>>(), widths.collect::<Vec<_>>()).header(header).column_spacing(1)
}

/// Those of `pieces` that fit into `room` characters with `gap` blanks between two, in their order; the first of them first.
pub(super) fn pieces<T>(pieces: Vec<T>, room: u16, gap: usize, len: impl Fn(&T) -> usize) -> Vec<T> {
    let mut left = usize::from(room) + gap;
    let fits = |piece: &T| match left.checked_sub(len(piece) + gap) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    pieces.into_iter().filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        let mut all =
            vec![Column::text("name", 9), Column::numbers("rate", 3, 6), Column::numbers("p99", 5, 7)];
        for (column, cell) in all.iter_mut().zip(["198.18.0.1:80", "1.23 M", "99.9 us"]) {
            column.push(cell.to_owned());
        }
        all
    }

    fn shown(room: usize) -> Vec<(&'static str, usize)> {
        fitting(&columns(), room).into_iter().map(|(column, width)| (column.header, width)).collect()
    }

    #[test]
    fn columns_are_shown_whole_or_not_at_all() {
        assert_eq!(shown(28), [("name", 13), ("rate", 6), ("p99", 7)]);
        assert_eq!(shown(27), [("name", 13), ("p99", 7)]);
        assert_eq!(shown(20), [("name", 13), ("rate", 6)], "what has less rank and fits");
        assert_eq!(shown(19), [("name", 13)]);
        assert_eq!(shown(5), [("name", 5)], "one there is always");
        assert_eq!(shown(0), [("name", 0)]);
    }

    #[test]
    fn what_is_left_is_for_one_more() {
        assert_eq!([28, 40].map(|room| left_over(&columns(), room)), [0, 11]);
    }

    #[test]
    fn pieces_that_do_not_fit_are_left_out() {
        let all = vec!["one", "three", "two"];
        let shown = |room| pieces(all.clone(), room, 2, |piece| piece.len()).join("  ");
        assert_eq!(
            [shown(15), shown(14), shown(8), shown(2)],
            ["one  three  two", "one  three", "one  two", ""]
        );
    }
}
