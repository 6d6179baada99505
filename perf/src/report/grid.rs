//! A table in Markdown whose columns are aligned.

/// Rows under a head; figures to the right, the first columns to the left.
#[derive(Debug)]
pub struct Grid {
    rows: Vec<Vec<String>>,
    left: usize,
}

impl Grid {
    /// A table whose first `left` columns hold words.
    pub fn new(head: &[&str], left: usize) -> Grid {
        Grid { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()], left }
    }

    /// Adds a row with a cell for each column.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.rows[0].len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// The table under a caption.
    pub fn text(&self, caption: &str) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = format!("{caption}\n\n");
        for (number, row) in self.rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let cell = if column < self.left {
                    format!("| {cell:<width$} ")
                } else {
                    format!("| {cell:>width$} ")
                };
                text.push_str(&cell);
            }
            text.push_str("|\n");
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let line = "-".repeat(*width);
                    let end = if column < self.left { "- " } else { "-:" };
                    text.push_str(&format!("|-{}{end}", &line[1..]));
                }
                text.push_str("|\n");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_as_wide_as_the_others() {
        let mut grid = Grid::new(&["test", "Mbit/s"], 1);
        grid.row(vec!["TCP_STREAM".to_owned(), "4028 [3892-4341]".to_owned()]);
        let text = grid.text("Streams");
        let widths: Vec<usize> = text.lines().skip(2).map(str::len).collect();
        assert!(widths.len() == 3 && widths.iter().all(|width| *width == widths[0]), "{text}");
        assert!(text.contains("-:|"), "{text}");
    }
}
