//! Aligned columns of text: two spaces apart, numbers to the right, `-` for nothing.

use std::fmt;

/// Rows under heads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Columns {
    heads: Vec<Head>,
    rows: Vec<Vec<String>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Head {
    name: String,
    right: bool,
}

impl Columns {
    /// Columns of these names, all to the left.
    pub fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Columns {
        let heads = names.into_iter().map(|name| Head { name: name.into(), right: false });
        Columns { heads: heads.collect(), rows: Vec::new() }
    }

    /// Puts the columns of these names to the right.
    #[must_use]
    pub fn right(mut self, names: &[&str]) -> Columns {
        for head in &mut self.heads {
            head.right |= names.contains(&head.name.as_str());
        }
        self
    }

    /// Puts the columns that hold nothing but whole numbers to the right.
    #[must_use]
    pub fn numbers_right(mut self) -> Columns {
        for (index, head) in self.heads.iter_mut().enumerate() {
            let mut cells = self.rows.iter().filter_map(|row| row.get(index)).peekable();
            head.right = cells.peek().is_some()
                && cells.all(|cell| !cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit()));
        }
        self
    }

    /// Adds a row; cells beyond the heads are not shown.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    fn width(&self, index: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(index)).map(String::as_str);
        let head = self.heads[index].name.as_str();
        cells.chain([head]).map(|cell| cell.chars().count()).max().unwrap_or(0)
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.heads.len()).map(|index| self.width(index)).collect();
        let heads = self.heads.iter().map(|head| head.name.clone()).collect();
        for row in [&heads].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((index, head), width) in self.heads.iter().enumerate().zip(&widths) {
                let cell = row.get(index).map_or("", String::as_str);
                let cell = if cell.is_empty() { "-" } else { cell };
                match head.right {
                    true => line.push_str(&format!("{cell:>width$}  ")),
                    false => line.push_str(&format!("{cell:<width$}  ")),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right_and_nothing_is_a_dash() {
        let mut columns = Columns::new(["NAME", "N", "WHAT"]).right(&["N"]);
        columns.row(["a", "1", ""]);
        columns.row(["longer", "1000", "x"]);
        assert_eq!(columns.to_string(), "NAME       N  WHAT\na          1  -\nlonger  1000  x\n");
    }

    #[test]
    fn a_column_of_whole_numbers_is_found() {
        let mut columns = Columns::new(["port", "address"]);
        columns.row(["3", "10.10.1.2"]);
        columns.row(["12", "10.10.1.3"]);
        let text = columns.numbers_right().to_string();
        assert_eq!(text, "port  address\n   3  10.10.1.2\n  12  10.10.1.3\n");
    }
}
