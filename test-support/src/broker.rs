use std::ops::Deref;
use std::process::Command;

use tempfile::NamedTempFile;

use crate::api_client::ApiClient;
use crate::csp_sim::CspSim;
use crate::dynamo_server::DynamoServer;
use crate::process::{ADMIN_TOKEN, Process, TRACK_TOKEN, listening_address, program};

/// A broker as a process.
pub struct Broker {
    pub process: Process,
    client: ApiClient,
    output: NamedTempFile,
}

impl Deref for Broker {
    type Target = ApiClient;

    fn deref(&self) -> &ApiClient {
        &self.client
    }
}

impl Broker {
    /// Starts a broker with these settings and waits until it is ready.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::run(program(&[]).envs(settings.iter().copied())).await
    }

    /// Starts a broker with its table on this server.
    pub async fn on_server(server: &DynamoServer, settings: &[(&str, &str)]) -> Self {
        let store = [("BROKER_STORE", "dynamodb"), ("DDB_ENDPOINT_URL", server.url.as_str())];
        Self::start(&[&store, settings].concat()).await
    }

    /// Starts a broker with a store in memory that uses this CSP.
    pub async fn on_csp(csp: &CspSim, settings: &[(&str, &str)]) -> Self {
        Self::start(&[&[("BROKER_STORE", "memory")], &csp.settings()[..], settings].concat()).await
    }

    /// Runs a command that becomes a broker and waits until the broker is ready.
    pub async fn run(command: &mut Command) -> Self {
        let (process, output, address) = Process::listening(command, listening_address).await;
        let client = ApiClient::new(address, TRACK_TOKEN, ADMIN_TOKEN);
        client.wait_until_ready().await;
        Self { process, client, output }
    }

    /// The log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.output.path()).unwrap()
    }
}
