//! A broker in its own process, with the methods of [`TestApp`].

use std::ops::Deref;
use std::process::Command;

use crate::helpers::TestApp;
pub use crate::support::processes::{ADMIN_TOKEN, CspSim, DynamoServer, TRACK_TOKEN, program};
use crate::support::processes::{Process, listening_address};

/// A broker in its own process.
pub struct Broker {
    pub process: Process,
    app: TestApp,
    output: tempfile::NamedTempFile,
}

impl Deref for Broker {
    type Target = TestApp;

    fn deref(&self) -> &TestApp {
        &self.app
    }
}

impl Broker {
    /// Starts a broker with these settings. Returns when it is ready.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::run(program(&[]).envs(settings.iter().copied())).await
    }

    /// Runs a command that becomes the broker. Returns when it is ready.
    pub async fn run(command: &mut Command) -> Self {
        let (process, output, address) = Process::listening(command, listening_address).await;
        let app = TestApp::at(address, TRACK_TOKEN, ADMIN_TOKEN);
        app.is_ready().await;
        Self { process, app, output }
    }

    /// Everything that it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.output.path()).unwrap()
    }

    /// Starts a broker whose table is on this server.
    pub async fn on_server(server: &DynamoServer, settings: &[(&str, &str)]) -> Self {
        let mut all = vec![("BROKER_STORE", "dynamodb"), ("DDB_ENDPOINT_URL", server.url.as_str())];
        all.extend(settings);
        Self::start(&all).await
    }
}
