//! The line ends of a text file that is changed: each line keeps its own, whatever the editor of the
//! format writes.

/// `text`, whose lines end in `\n`, with the line ends that the same lines have in `before`. New lines get
/// the one that most lines there have.
pub(crate) fn with_line_ends_of(before: &str, text: &str) -> String {
    if !before.contains("\r\n") {
        return text.to_owned();
    }
    let old: Vec<&str> = before.split_inclusive('\n').collect();
    let new: Vec<&str> = text.split_inclusive('\n').collect();
    let with_cr = old.iter().filter(|line| line.ends_with("\r\n")).count();
    let usual = if 2 * with_cr > old.len() { "\r\n" } else { "\n" };

    // Changes are few and near each other: what is the same before and after them is found from both ends.
    let same = |old: &str, new: &str| content(old) == content(new);
    let head = old.iter().zip(&new).take_while(|(old, new)| same(old, new)).count();
    let tails = old[head..].iter().rev().zip(new[head..].iter().rev());
    let tail = tails.take_while(|(old, new)| same(old, new)).count();
    let mut between = old[head..old.len() - tail].iter();

    let mut kept = String::with_capacity(text.len() + new.len());
    for (index, line) in new.iter().enumerate() {
        let twin = if index < head {
            old.get(index).copied()
        } else if index >= new.len() - tail {
            old.get(old.len() - (new.len() - index)).copied()
        } else {
            // A line between two changes.
            let mut ahead = between.clone();
            let found = ahead.find(|old| same(old, line)).copied();
            if found.is_some() {
                between = ahead;
            }
            found
        };
        kept.push_str(content(line));
        if line.ends_with('\n') {
            let end = twin.filter(|twin| twin.ends_with('\n'));
            kept.push_str(end.map_or(usual, |twin| if twin.ends_with("\r\n") { "\r\n" } else { "\n" }));
        }
    }
    kept
}

/// A line without its end.
fn content(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_ends_and_new_ones_get_the_usual_one() {
        for (before, text, expected) in [
            ("a\nb\n", "a\nx\nb\n", "a\nx\nb\n"),
            ("a\r\nb\r\n", "a\nx\nb\n", "a\r\nx\r\nb\r\n"),
            ("a\r\nb\r\nc\n", "a\nx\nb\nc\n", "a\r\nx\r\nb\r\nc\n"),
            ("a\nb\nc\r\n", "a\nb\nx\nc\n", "a\nb\nx\nc\r\n"),
            // Two changes with lines between them, and a last line without an end.
            ("a\r\nb\nc\r\nd\r\ne", "x\nb\nc\nd\ny\ne", "x\r\nb\nc\r\nd\r\ny\r\ne"),
            ("a\r\n", "a\nx", "a\r\nx"),
            ("a\r\n", "", ""),
        ] {
            assert_eq!(with_line_ends_of(before, text), expected, "{before:?} {text:?}");
        }
    }

    #[test]
    fn a_text_that_did_not_change_is_the_same_whatever_its_line_ends_are() {
        for before in ["", "a", "a\r\n\r\nb\n\r\n", "\r\n", "a\n\nb\r\n", "x\r\ny"] {
            let text = before.replace("\r\n", "\n");
            assert_eq!(with_line_ends_of(before, &text), before);
        }
    }
}
