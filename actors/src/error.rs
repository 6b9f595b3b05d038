//! The causes of errors, and how they are written out.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The cause of an error. Shared, because several waiters may receive the same error.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Makes a cause of an error, or of a text where there is no error value.
pub fn cause(error: impl Into<Box<dyn Error + Send + Sync>>) -> Cause {
    Arc::from(error.into())
}

/// Displays an error with all its sources, separated by colons. For logs and reports; `Display` of an error alone does
/// not repeat its source.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(formatter, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
