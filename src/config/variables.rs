//! Files of variables: `NAME=VALUE` a line, quoted as a shell has it, and nothing expanded.

use std::collections::BTreeMap;

/// Variables by name: sorted, each once.
pub(super) type Variables = BTreeMap<String, String>;

/// Adds the variables of a file's text. What is wrong is told with its line, and never with a
/// value: it may be a secret.
pub(super) fn read(text: &str, into: &mut Variables) -> Vec<(usize, String)> {
    let mut wrong = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        match variable(line) {
            Ok(None) => {}
            Ok(Some((name, value))) => {
                into.insert(name.to_owned(), value);
            }
            Err(why) => wrong.push((number, why)),
        }
    }
    wrong
}

/// The variable of a line; `None` = it has none.
fn variable(line: &str) -> Result<Option<(&str, String)>, String> {
    let line = line.strip_suffix('\r').unwrap_or(line).trim_start();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let assignment = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => line,
    };
    let (name, value) = assignment.split_once('=').ok_or("there is no `=`; write NAME=VALUE")?;
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !name.starts_with(starts) || !name.chars().all(|c| starts(c) || c.is_ascii_digit()) {
        let rule =
            "before the `=` stands a name of letters, digits and underscores, without blanks";
        return Err(rule.to_owned());
    }
    if value.contains('\0') {
        return Err(format!("{name} has a zero byte"));
    }
    // With its `=`, since a word that begins with `#` would be a comment.
    let words = shell_words::split(&assignment[name.len()..]);
    match words.map_err(|_| format!("{name}: a quote stands open"))?.as_slice() {
        [value] => Ok(Some((name, value.get(1..).unwrap_or_default().to_owned()))),
        _ => Err(format!("{name}: a value with blanks stands in quotes")),
    }
}
