//! `sandbox-broker reference`: pages that are generated from the program itself, so that no page can contradict it.
//!
//! Each page is kept in the repository. A test compares it with what the program prints.

mod errors;
mod metrics;
mod settings;
pub mod terraform;

use clap::ValueEnum;

/// A generated page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Page {
    /// All settings with defaults and ranges
    Settings,
    /// All metrics with their labels
    Metrics,
    /// All error codes of the API
    Errors,
    /// The settings as a Terraform variable with their ranges
    Ranges,
}

impl Page {
    /// Where the page is kept in the repository.
    pub fn path(self) -> &'static str {
        match self {
            Self::Settings => "docs/reference/settings.md",
            Self::Metrics => "docs/reference/metrics.md",
            Self::Errors => "docs/reference/errors.md",
            Self::Ranges => "terraform/modules/sandbox-broker/variables_broker.tf",
        }
    }

    /// The text of the page.
    pub fn render(self) -> String {
        match self {
            Self::Settings => settings::page(),
            Self::Metrics => metrics::page(),
            Self::Errors => errors::page(),
            Self::Ranges => terraform::page(),
        }
    }
}

/// A Markdown table.
fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    let ruler = format!("|{}\n", "---|".repeat(header.len()));
    let rows = rows.into_iter().map(|row| line(&row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>()));
    line(&header) + &ruler + &rows.collect::<String>()
}
