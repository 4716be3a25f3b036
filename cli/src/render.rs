//! Plain text: tables and paragraphs that are readable in 100 columns.

use std::fmt::Write as _;
use std::io::Write as _;

use jiff::Timestamp;
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Modify, Padding, Style};

/// Columns that text is broken to.
pub const WIDTH: usize = 100;

/// A table with a header line, columns two blanks apart.
#[derive(Debug)]
pub struct Table {
    rows: Builder,
    right: Vec<usize>,
}

impl Table {
    /// A table with this header.
    pub fn new<const N: usize>(header: [&str; N]) -> Self {
        let mut rows = Builder::default();
        rows.push_record(header);
        Self { rows, right: Vec::new() }
    }

    /// Numbers stand to the right in these columns.
    pub fn right(mut self, columns: &[usize]) -> Self {
        self.right.extend(columns);
        self
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push_record(cells);
    }

    /// The text, every line ended. A table that is too wide has its columns one blank apart.
    pub fn render(self) -> String {
        let wide = self.with_gap(2);
        if wide.lines().all(|line| line.chars().count() <= WIDTH) { wide } else { self.with_gap(1) }
    }

    fn with_gap(&self, gap: usize) -> String {
        let mut table = self.rows.clone().build();
        table.with(Style::empty()).with(Padding::new(0, gap, 0, 0));
        for column in &self.right {
            table.with(Modify::new(Columns::one(*column)).with(Alignment::right()));
        }
        table.to_string().lines().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{}", line.trim_end());
            text
        })
    }
}

/// Writes to standard output. Who closes it early (`| head`) has read enough.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Text broken between words into lines of at most [`WIDTH`] columns, each indented by `indent` blanks.
pub fn paragraph(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    for part in text.lines() {
        let mut column = 0;
        for word in part.split_whitespace() {
            let length = word.chars().count();
            if column > 0 && column + 1 + length > WIDTH {
                lines.push('\n');
                column = 0;
            }
            if column == 0 {
                lines.extend(std::iter::repeat_n(' ', indent));
                column = indent;
            } else {
                lines.push(' ');
                column += 1;
            }
            lines.push_str(word);
            column += length;
        }
        lines.push('\n');
    }
    lines
}

/// At most `longest` characters of a name, the last one an ellipsis where something is missing.
pub fn short(name: &str, longest: usize) -> String {
    if name.chars().count() <= longest {
        return name.to_owned();
    }
    name.chars().take(longest.saturating_sub(1)).chain(['…']).collect()
}

/// "0-3,7" of ascending numbers.
pub fn ranges(numbers: impl IntoIterator<Item = u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let runs =
        runs.iter().map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
    runs.collect::<Vec<_>>().join(",")
}

/// "1 member", "2 members".
pub fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// How long ago, as kubectl says it: "5s", "3m", "7h", "12d".
pub fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = (now.as_second() - since.as_second()).max(0);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Compares text with what is stored under `src/snapshots`. With `UPDATE_SNAPSHOTS=1` it is stored instead.
#[cfg(test)]
pub fn assert_snapshot(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/snapshots").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{}", path.display());
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "wider than {WIDTH} columns:\n{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_blanks_at_line_ends() {
        let mut table = Table::new(["NAME", "GPUS", "WHERE"]).right(&[1]);
        table.row(["a".to_owned(), "8".to_owned(), String::new()]);
        table.row(["longer-name".to_owned(), "1024".to_owned(), "eu-west".to_owned()]);
        assert_eq!(table.render(), "NAME         GPUS  WHERE\na               8\nlonger-name  1024  eu-west\n");
    }

    #[test]
    fn paragraphs_fit_the_width() {
        let text = paragraph(&"word ".repeat(60), 2);
        assert!(text.lines().count() > 2);
        assert!(text.lines().all(|line| line.len() <= WIDTH && line.starts_with("  word")), "{text}");
        assert_eq!(paragraph("one\ntwo", 0), "one\ntwo\n");
    }

    #[test]
    fn ranks_become_ranges() {
        for (numbers, text) in [
            (vec![], ""),
            (vec![4], "4"),
            (vec![0, 1, 2, 3], "0-3"),
            (vec![0, 1, 5, 7, 8], "0-1,5,7-8"),
            (vec![u32::MAX], "4294967295"),
        ] {
            assert_eq!(ranges(numbers), text);
        }
    }

    #[test]
    fn ages_are_short() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (seconds, text) in [(0, "0s"), (119, "119s"), (120, "2m"), (7_200, "2h"), (172_800, "2d")] {
            assert_eq!(age(at(0), at(seconds)), text);
        }
        assert_eq!(age(at(10), at(0)), "0s");
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(short("abc", 3), "abc");
        assert_eq!(short("abcd", 3), "ab…");
    }
}
