//! The command line: parses the arguments and runs the command.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the command line writes to the terminal")]

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use broker_actors::error::Chain;
use clap::{Parser, Subcommand};
use sandbox_broker::app::{Application, StartError};
use sandbox_broker::config::{DEVELOPMENT_ADMIN_TOKEN, DEVELOPMENT_TOKEN, Settings};
use sandbox_broker::csp::simulator::{Simulator, SimulatorSettings};
use sandbox_broker::ctl::{self, CtlArgs};
use sandbox_broker::healthcheck;
use sandbox_broker::reference::Page;
use sandbox_broker::table_command::{self, TableCommand};
use sandbox_broker::telemetry::Telemetry;
use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};

/// Leases pre-created cloud sandboxes to lab tracks, each to one student at a time
///
/// Without a command it serves. Each setting is a flag, or the environment variable in brackets.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default)
    Serve(Box<Settings>),
    /// Manage the DynamoDB table
    #[command(subcommand)]
    Table(TableCommand),
    /// Run a simulated CSP over HTTP
    CspSim(CspSimArgs),
    Ctl(CtlArgs),
    /// Check the health of the broker on this machine; the exit code is 0 if it is healthy
    Healthcheck {
        /// Port of the broker
        #[arg(long, env = "BROKER_PORT", default_value_t = 8080)]
        broker_port: u16,
    },
    /// Print a generated page of the reference
    Reference {
        /// The page
        page: Page,
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
    /// Sandboxes that the CSP keeps
    #[arg(long, env = "CSP_SIM_SANDBOXES", default_value_t = 50)]
    sandboxes: u64,
    /// Token that callers must send
    #[arg(long, env = "CSP_API_TOKEN", hide_env_values = true, default_value = "development-csp-token")]
    token: SecretString,
    /// File that keeps the state over restarts
    #[arg(long)]
    state_file: Option<PathBuf>,
}

/// The SDK and the embedded engine make thousands of short-lived allocations for each claim. docs/performance.md compares
/// this allocator with the system's, in time and in resident memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit code for settings that cannot be used.
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
        Some(Command::Healthcheck { broker_port }) => healthcheck::check(broker_port).await.map_err(Failure::from),
        Some(Command::Reference { page }) => {
            print!("{}", page.render());
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Settings(error)) => {
            eprintln!("{}", Chain(&*error));
            ExitCode::from(BAD_SETTINGS)
        }
        Err(Failure::Other(error)) => {
            eprintln!("sandbox-broker: {}", Chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Why a command failed.
enum Failure {
    Settings(Box<dyn Error>),
    Other(Box<dyn Error>),
}

impl Failure {
    fn settings(error: impl Error + 'static) -> Self {
        Self::Settings(error.into())
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

async fn serve(settings: Settings) -> Result<(), Failure> {
    let settings = settings.check().map_err(Failure::settings)?;
    let server = &settings.server;
    let telemetry = Telemetry::init(&server.log_filter, server.log_format, server.otlp_endpoint.as_ref())
        .map_err(Failure::settings)?;
    let (store, uses_development_tokens) = (settings.store.kind, server.uses_development_tokens());
    let is_unlimited = server.rate_limit_rps == 0;
    let application = Application::build(settings).await.map_err(start_failure)?;
    let address = application.address();
    tracing::info!(event = "listening", %address, ?store, version = env!("CARGO_PKG_VERSION"), "listening");
    if is_unlimited {
        eprintln!("Rate limiting is off. RATE_LIMIT_RPS turns it on.");
    }
    if uses_development_tokens {
        welcome(address);
    }
    let ended = application.run_until_stopped(stop_requested()?).await;
    telemetry.flush();
    Ok(ended?)
}

/// A table that an operator has to change first is like a setting: starting again does not help.
fn start_failure(error: StartError) -> Failure {
    match error {
        StartError::Table(error) if error.needs_operator() => Failure::settings(error),
        error => error.into(),
    }
}

fn welcome(address: SocketAddr) {
    let url = format!("http://127.0.0.1:{}", address.port());
    eprintln!(
        "DEVELOPMENT TOKENS ARE IN USE: anyone who knows the documentation can call this broker.\n\
         Set BROKER_API_TOKEN and BROKER_ADMIN_TOKEN, except for a trial.\n\n\
         Allocate a sandbox:\n  \
         curl -i -X POST {url}/v1/allocate -H 'Authorization: Bearer {DEVELOPMENT_TOKEN}' -H 'X-Track-ID: student-1'\n\
         Count the pool:\n  \
         curl {url}/v1/admin/stats -H 'Authorization: Bearer {DEVELOPMENT_ADMIN_TOKEN}'\n"
    );
}

/// Completes at SIGTERM or Ctrl-C.
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
    Telemetry::init("info", None, None)?;
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
