//! Golden files.

use std::path::PathBuf;

/// Compares with `tests/golden/<name>`, or writes it if `UPDATE_GOLDEN` is set.
pub(crate) fn check(name: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    #[expect(clippy::disallowed_methods, reason = "how golden files are updated")]
    if std::env::var("UPDATE_GOLDEN").is_ok() {
        std::fs::write(&path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if expected == actual {
        return;
    }
    let line = expected.lines().zip(actual.lines()).position(|(a, b)| a != b);
    let line = line.unwrap_or_else(|| expected.lines().count().min(actual.lines().count()));
    let show = |text: &str| text.lines().skip(line.saturating_sub(2)).take(6).collect::<Vec<_>>().join("\n");
    panic!(
        "{} differs from line {}\n--- expected\n{}\n--- actual\n{}",
        path.display(),
        line + 1,
        show(&expected),
        show(actual)
    );
}

/// One command with what it did, as it stands in a golden file.
pub(crate) fn section(title: &str, outcome: &super::Outcome) -> String {
    let mut text = format!("$ {title}\n");
    for (label, stream) in [("stdout", &outcome.stdout), ("stderr", &outcome.stderr)] {
        if stream.is_empty() {
            continue;
        }
        text.push_str(&format!("--- {label}\n{stream}"));
        if !stream.ends_with('\n') {
            text.push_str("(no line feed)\n");
        }
    }
    text + &format!("--- exit {}\n\n", outcome.code)
}
