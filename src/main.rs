//! Parse, build, run.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is what talks to the person at the terminal")]

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use broker_actors::error::Chain;
use clap::{Parser, Subcommand};
use sandbox_broker::app::{Application, StartError};
use sandbox_broker::config::{DEVELOPMENT_ADMIN_TOKEN, DEVELOPMENT_TOKEN, RawSettings, Settings};
use sandbox_broker::csp::simulator::{Simulator, SimulatorSettings};
use sandbox_broker::ctl::{self, CtlArgs};
use sandbox_broker::table_command::{self, TableCommand};
use sandbox_broker::telemetry::Telemetry;
use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};

/// Hands each pre-created cloud sandbox to exactly one student's lab.
///
/// Without a command it serves. Each setting is a flag or the environment variable in brackets.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: RawSettings,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default)
    Serve(Box<RawSettings>),
    /// The DynamoDB table
    #[command(subcommand)]
    Table(TableCommand),
    /// A simulated CSP over HTTP
    CspSim(CspSimArgs),
    /// Steer a running broker
    Ctl(CtlArgs),
    /// Ask the broker on this machine whether it is healthy; exit code 0 if so
    Healthcheck {
        /// Port of the broker
        #[arg(long, env = "BROKER_PORT", default_value_t = 8080)]
        broker_port: u16,
    },
}

#[derive(clap::Args)]
struct CspSimArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 picks a free one
    #[arg(long, default_value_t = 8090)]
    port: u16,
    /// Sandboxes to keep
    #[arg(long, env = "CSP_SIM_SANDBOXES", default_value_t = 50)]
    sandboxes: u64,
    /// Token that callers must present
    #[arg(long, env = "CSP_API_TOKEN", hide_env_values = true, default_value = "development-csp-token")]
    token: SecretString,
    /// File to keep the state in over restarts
    #[arg(long)]
    state_file: Option<PathBuf>,
}

/// Requests, SDK and engine make thousands of short-lived allocations for each claim. Compared with the system's allocator
/// in docs/performance.md, in time and in what stays resident.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A setting that cannot be used.
const BAD_SETTINGS: u8 = 2;

#[actix_web::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => serve(cli.settings).await,
        Some(Command::Serve(settings)) => serve(*settings).await,
        Some(Command::Table(command)) => return table_command::run(command).await,
        Some(Command::CspSim(args)) => simulate(args).await,
        Some(Command::Ctl(args)) => return ctl::run(args).await,
        Some(Command::Healthcheck { broker_port }) => check_health(broker_port).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Settings(text)) => {
            eprintln!("{text}");
            ExitCode::from(BAD_SETTINGS)
        }
        Err(Failure::Other(error)) => {
            eprintln!("sandbox-broker: {error}");
            ExitCode::FAILURE
        }
    }
}

enum Failure {
    Settings(String),
    Other(Box<dyn std::error::Error>),
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

async fn serve(raw: RawSettings) -> Result<(), Failure> {
    let settings = Settings::check(raw).map_err(|problems| Failure::Settings(problems.to_string()))?;
    let raw = &settings.raw;
    let telemetry = Telemetry::init(&raw.log_level, raw.log_format, settings.otlp_endpoint.as_ref())
        .map_err(|error| Failure::Settings(error.to_string()))?;
    let (development_tokens, rate_limit) = (settings.development_tokens, settings.rate_limit_rps);
    let store = settings.raw.store.broker_store;
    let application = Application::build(settings).await.map_err(start_failure)?;
    let address = application.address();
    tracing::info!(%address, ?store, version = env!("CARGO_PKG_VERSION"), "listening");
    if rate_limit.is_none() {
        eprintln!("Rate limiting is off; RATE_LIMIT_RPS switches it on.");
    }
    if development_tokens {
        welcome(address);
    }
    let ended = application.run_until_stopped(stop_requested()?).await;
    telemetry.flush();
    Ok(ended?)
}

/// A table that an operator has to change first is like a setting: starting again does not help.
fn start_failure(error: StartError) -> Failure {
    match error {
        StartError::Table(error) if error.needs_operator() => Failure::Settings(format!("sandbox-broker: {error}")),
        StartError::Table(error) => Failure::Other(Chain(&error).to_string().into()),
        error => error.into(),
    }
}

fn welcome(address: SocketAddr) {
    let url = format!("http://127.0.0.1:{}", address.port());
    eprintln!(
        "DEVELOPMENT TOKENS ARE IN USE: everybody who reads the README can call this broker.\n\
         Set BROKER_API_TOKEN and BROKER_ADMIN_TOKEN for anything but a trial.\n\n\
         Allocate a sandbox:\n  \
         curl -i -X POST {url}/v1/allocate -H 'Authorization: Bearer {DEVELOPMENT_TOKEN}' -H 'X-Track-ID: student-1'\n\
         Look at the pool:\n  \
         curl {url}/v1/admin/stats -H 'Authorization: Bearer {DEVELOPMENT_ADMIN_TOKEN}'\n"
    );
}

/// Returns at SIGTERM or Ctrl-C.
fn stop_requested() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn simulate(args: CspSimArgs) -> Result<(), Failure> {
    Telemetry::init("info", None, None).map_err(|error| Failure::Settings(error.to_string()))?;
    let simulator = Simulator::bind(SimulatorSettings {
        address: SocketAddr::new(args.host, args.port),
        sandboxes: args.sandboxes,
        token: args.token,
        state_file: args.state_file,
    })?;
    println!("simulated CSP on http://{}", simulator.address());
    let handle = simulator.handle();
    let stop = stop_requested()?;
    actix_web::rt::spawn(async move {
        stop.await;
        handle.stop(true).await;
    });
    Ok(simulator.run().await?)
}

async fn check_health(port: u16) -> Result<(), Failure> {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(3)).no_proxy().build()?;
    http.get(format!("http://127.0.0.1:{port}/healthz")).send().await?.error_for_status()?;
    Ok(())
}
