//! The causes of errors, and how they are written out.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::sync::Arc;

/// The cause of an error. Shared, because several waiters may receive the same error.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Makes a cause of an error, or of a text where there is no error value.
pub fn cause(error: impl Into<Box<dyn Error + Send + Sync>>) -> Cause {
    Arc::from(error.into())
}

/// The longest text of one error. What refuses an input may quote it, and that may be megabytes.
const MAX_CHARS: usize = 400;

/// Displays an error with all its sources, separated by colons and each cut to 400 characters. For logs and reports;
/// `Display` of an error alone does not repeat its source.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_cut(formatter, self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            formatter.write_str(": ")?;
            write_cut(formatter, error)?;
            source = error.source();
        }
        Ok(())
    }
}

fn write_cut(formatter: &mut fmt::Formatter<'_>, error: &dyn Error) -> fmt::Result {
    let mut cut = Cut { formatter, left: MAX_CHARS };
    match write!(cut, "{error}") {
        Err(fmt::Error) if cut.left == 0 => formatter.write_char('…'),
        written => written,
    }
}

/// Writes the first characters and fails at the next one.
struct Cut<'a, 'b> {
    formatter: &'a mut fmt::Formatter<'b>,
    left: usize,
}

impl fmt::Write for Cut<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let (end, is_whole) = match text.char_indices().nth(self.left) {
            Some((end, _)) => (end, false),
            None => (text.len(), true),
        };
        self.left -= text[..end].chars().count();
        self.formatter.write_str(&text[..end])?;
        if is_whole { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_its_source_is_still_shown() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Long {
            text: String,
            source: std::fmt::Error,
        }
        let shown = |length| {
            let error = Long { text: "é".repeat(length), source: std::fmt::Error };
            Chain(&error).to_string()
        };
        assert!(shown(400).starts_with(&"é".repeat(400)) && !shown(400).contains('…'));
        assert!(shown(1_000_000).starts_with(&format!("{}…: ", "é".repeat(400))));
        assert_eq!(shown(401).len(), shown(1_000_000).len());
    }
}
