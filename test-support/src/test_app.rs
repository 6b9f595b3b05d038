use std::ffi::OsString;
use std::ops::Deref;

use clap::Parser as _;
use sandbox_broker::app::Application;
use sandbox_broker::config::{DEVELOPMENT_ADMIN_TOKEN, DEVELOPMENT_TOKEN, SecretSettings, Settings};
use tokio::sync::oneshot;

use crate::api_client::ApiClient;
use crate::csp_sim::CspSim;

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

/// The settings that the arguments and the environment of this process give. The first argument is the program's name.
pub fn parse_settings<A: Into<OsString> + Clone>(arguments: impl IntoIterator<Item = A>) -> Settings {
    Arguments::parse_from(arguments).settings.check().unwrap()
}

/// The settings of a broker on a free port, with these flags and secrets. The store is in memory unless a flag says
/// otherwise.
pub fn test_settings(flags: &[&str], secrets: &[(&str, &str)]) -> Settings {
    let fixed = ["test", "--broker-host=127.0.0.1", "--broker-port=0"];
    let has_store = flags.iter().any(|flag| flag.starts_with("--broker-store"));
    let store: &[&str] = if has_store { &[] } else { &["--broker-store=memory"] };
    let settings = Arguments::parse_from(fixed.iter().chain(store).chain(flags)).settings;
    let secret = |name: &str| secrets.iter().find(|(it, _)| *it == name).map(|(_, value)| value.into());
    Settings { secrets: SecretSettings::from_environment(secret), ..settings }.check().unwrap()
}

/// The application in this process, started as `main` does it. It stops when this is dropped.
pub struct TestApp {
    client: ApiClient,
    _stop: oneshot::Sender<()>,
}

impl Deref for TestApp {
    type Target = ApiClient;

    fn deref(&self) -> &ApiClient {
        &self.client
    }
}

impl TestApp {
    /// Starts a broker with these flags and fills its pool from the CSP.
    pub async fn start(flags: &[&str]) -> Self {
        let app = Self::start_empty(flags).await;
        app.sync("").await;
        app
    }

    /// Starts a broker on this CSP and fills its pool from it.
    pub async fn on_csp(url: &str, flags: &[&str], secrets: &[(&str, &str)]) -> Self {
        let url = format!("--csp-base-url={url}");
        let flags = [&["--csp-mode=http", &url], flags].concat();
        let secrets = [&[("CSP_API_TOKEN", CspSim::TOKEN)], secrets].concat();
        let app = Self::run(test_settings(&flags, &secrets)).await;
        app.sync("").await;
        app
    }

    /// Starts a broker with these flags and does not wait for the first sync.
    pub async fn start_empty(flags: &[&str]) -> Self {
        Self::run(test_settings(flags, &[])).await
    }

    /// Starts a broker with these settings and does not wait for the first sync. Its client has the development tokens.
    pub async fn run(settings: Settings) -> Self {
        let application = Application::build(settings).await.unwrap();
        let client = ApiClient::new(application.address(), DEVELOPMENT_TOKEN, DEVELOPMENT_ADMIN_TOKEN);
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::task::spawn_local(application.run_until_stopped(async {
            let _ = stopped.await;
        }));
        client.wait_until_ready().await;
        Self { client, _stop: stop }
    }
}
