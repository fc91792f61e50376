//! Text in columns.

/// Wider tables are broken into several below each other.
const WIDTH: usize = 132;

/// Columns of numbers: the first, which names the lines, to the left, the others to the right; as many side by side as fit.
pub(super) fn numbers(lines: &[Vec<String>]) -> String {
    let block = |columns: &[usize]| {
        let pick = |line: &Vec<String>| {
            let all = std::iter::once(&0).chain(columns);
            all.filter_map(|column| line.get(*column).cloned()).collect()
        };
        rows(
            &lines.iter().map(pick).collect::<Vec<_>>(),
            |column, text, width| match column {
                0 => format!("{text:width$}"),
                _ => format!("  {text:>width$}"),
            },
        )
    };
    let blocks: Vec<String> = side_by_side(&widths(lines))
        .iter()
        .map(|columns| block(columns))
        .collect();
    blocks.join("\n")
}

/// The columns but the first in groups no wider than a line, each group with the first column before it.
fn side_by_side(widths: &[usize]) -> Vec<Vec<usize>> {
    let first = widths.first().copied().unwrap_or(0);
    let (mut groups, mut used) = (vec![Vec::new()], first);
    for (column, width) in widths.iter().enumerate().skip(1) {
        if used + 2 + width > WIDTH && groups.last().is_some_and(|group| !group.is_empty()) {
            groups.push(Vec::new());
            used = first;
        }
        used += 2 + width;
        if let Some(group) = groups.last_mut() {
            group.push(column);
        }
    }
    groups
}

/// Columns of words.
pub(super) fn words(lines: &[Vec<String>]) -> String {
    rows(lines, |_, text, width| format!("{text:width$}  "))
}

fn rows(lines: &[Vec<String>], cell: impl Fn(usize, &str, usize) -> String) -> String {
    let widths = widths(lines);
    let row = |line: &Vec<String>| {
        let cells = line
            .iter()
            .enumerate()
            .map(|(column, text)| cell(column, text, widths[column]));
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    lines.iter().map(row).collect()
}

fn widths(lines: &[Vec<String>]) -> Vec<usize> {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(column))
            .map(|text| text.chars().count())
            .max()
    };
    (0..columns).map(|column| width(column).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_wide_goes_below() {
        let long = "9".repeat(WIDTH / 2);
        let lines = [["name", &long, "1", &long].map(str::to_owned).to_vec(), Vec::new()];
        let text = numbers(&lines);
        let shown: Vec<&str> = text.lines().collect();
        assert_eq!(
            shown,
            [
                format!("name  {long}  1"),
                String::new(),
                String::new(),
                format!("name  {long}"),
                String::new()
            ]
        );
    }
}
