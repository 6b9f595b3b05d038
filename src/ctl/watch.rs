//! `--watch`: repeats a command and redraws its output.

use std::time::Duration;

use broker_actors::error::Chain;
use clap::Args;
use tokio::time::sleep;

use super::error::CtlError;
use super::escape::escape;
use super::output::{self, Output};

/// How a command is repeated.
#[derive(Args, Debug)]
pub(super) struct Watch {
    /// Repeat until Ctrl-C, also while the broker restarts
    #[arg(short, long)]
    watch: bool,
    /// Seconds between repetitions with --watch
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

impl Watch {
    /// Runs the command once or, with --watch, until it fails for good or no one reads its output.
    pub(super) async fn repeat(
        &self,
        output: &Output,
        mut command: impl AsyncFnMut() -> Result<(), CtlError>,
    ) -> Result<(), CtlError> {
        if !self.watch {
            return command().await;
        }
        loop {
            output.start_screen()?;
            match command().await {
                Err(error) if error.is_temporary() => {
                    output::print_error(&format!("{}; trying again", escape(&Chain(&error).to_string())));
                }
                outcome => outcome?,
            }
            sleep(Duration::from_secs(self.interval)).await;
        }
    }
}
