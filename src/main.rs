//! The command line: parses the arguments and runs the command.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the command line writes to the terminal")]

use std::error::Error;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use broker_actors::error::Chain;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;
use sandbox_broker::app::{Application, StartError};
use sandbox_broker::config::environment::{Environment, drop_empty_variables};
use sandbox_broker::config::{BadSettings, DEVELOPMENT_ADMIN_TOKEN, DEVELOPMENT_TOKEN, SecretSettings, Settings};
use sandbox_broker::csp::simulator::{Simulator, SimulatorSettings};
use sandbox_broker::ctl::{self, CtlArgs};
use sandbox_broker::healthcheck;
use sandbox_broker::reference::Page;
use sandbox_broker::table_command::{self, TableCommand};
use sandbox_broker::telemetry::Telemetry;
use sandbox_broker::token_command::TokenCommand;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

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
    /// Make tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Run a simulated CSP over HTTP; callers must send the token in CSP_API_TOKEN
    CspSim(CspSimArgs),
    Ctl(CtlArgs),
    /// Check the health of the broker on this machine; the exit code is 0 if it is healthy
    Healthcheck {
        /// Address of the broker [default: 127.0.0.1]
        #[arg(long, env = "BROKER_HOST")]
        broker_host: Option<IpAddr>,
        /// Port of the broker
        #[arg(long, env = "BROKER_PORT", default_value_t = 8080)]
        broker_port: u16,
    },
    /// Print the version
    Version,
    /// Print the completions for a shell, to be sourced or put where the shell looks for them
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages of all commands into a directory
    Man {
        /// The directory; it is made if it is missing
        directory: PathBuf,
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
    /// File that keeps the state over restarts
    #[arg(long)]
    state_file: Option<PathBuf>,
}

/// The SDK and the embedded engine make thousands of short-lived allocations for each claim. docs/performance.md compares
/// this allocator with the system's, in time and in resident memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The token of a simulated CSP that is given none.
const DEVELOPMENT_CSP_TOKEN: &str = "development-csp-token";
/// The jobs' first runs write their log lines in this time, so that the welcome stands below them.
const WELCOME_DELAY: Duration = Duration::from_secs(2);

/// The exit code for settings that cannot be used.
const BAD_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    drop_empty_variables();
    run()
}

#[actix_web::main]
async fn run() -> ExitCode {
    let environment = Environment::of_process();
    let command = environment.adapt(Cli::command());
    let unknown = environment.unknown(&command);
    let cli = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let outcome = match cli.command {
        None => serve(cli.settings, &environment, &unknown).await,
        Some(Command::Serve(settings)) => serve(*settings, &environment, &unknown).await,
        Some(Command::Table(command)) => return table_command::run(command).await,
        Some(Command::CspSim(args)) => simulate(args).await,
        Some(Command::Ctl(args)) => return ctl::run(args).await,
        Some(Command::Healthcheck { broker_host, broker_port }) => {
            healthcheck::check(broker_host, broker_port).await.map_err(Failure::from)
        }
        Some(Command::Token(command)) => command.run().map_err(Failure::settings).map(|text| print!("{text}")),
        Some(Command::Version) => {
            println!("sandbox-broker {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sandbox-broker", &mut script);
            // A reader that ends early, such as `head`, is no failure.
            let _ = std::io::stdout().write_all(&script);
            Ok(())
        }
        Some(Command::Man { directory }) => write_man_pages(&directory).map_err(Failure::from),
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

async fn serve(settings: Settings, environment: &Environment, unknown: &[String]) -> Result<(), Failure> {
    // From here on a signal ends the program in order, also as the first process of a container, which the system
    // protects from signals without a handler.
    let stop = stop_requested()?;
    let refused = environment.refused();
    let settings = match settings.check() {
        Ok(settings) if refused.is_empty() => settings,
        checked => {
            let problems = refused.into_iter().chain(checked.err().into_iter().flat_map(|bad| bad.0));
            return Err(Failure::settings(BadSettings(problems.collect())));
        }
    };
    let server = &settings.server;
    let telemetry = Telemetry::init(&server.log_filter, server.log_format, server.otlp_endpoint.as_ref())
        .map_err(Failure::settings)?;
    let (store, uses_development_tokens) = (settings.store.kind, settings.uses_development_tokens());
    let is_unlimited = server.rate_limit_rps == 0;
    for message in unknown {
        tracing::warn!(event = "unknown_setting", "{message}");
    }
    let mut stop = pin!(stop);
    let application = tokio::select! {
        () = &mut stop => return Ok(()),
        built = Application::build(settings) => built.map_err(start_failure)?,
    };
    let (address, admin_address) = (application.address(), application.admin_address());
    let admin_address = admin_address.map(|address| address.to_string());
    tracing::info!(event = "listening", %address, admin_address, ?store, version = env!("CARGO_PKG_VERSION"), "listening");
    if is_unlimited {
        eprintln!("Rate limiting is off. RATE_LIMIT_RPS turns it on.");
    }
    if uses_development_tokens {
        actix_web::rt::spawn(async move {
            sleep(WELCOME_DELAY).await;
            welcome(address);
        });
    }
    let ended = application.run_until_stopped(stop).await;
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
    let from = if address.ip().is_loopback() {
        "anyone on this machine"
    } else {
        "ANYONE WHO REACHES THIS MACHINE, because BROKER_HOST is set,"
    };
    eprintln!(
        "DEVELOPMENT TOKENS ARE IN USE: {from} can allocate all sandboxes and pause, release and delete as an operator.\n\
         Set BROKER_API_TOKEN and BROKER_ADMIN_TOKEN, except for a trial.\n\n\
         Allocate a sandbox:\n  \
         curl -i -X POST {url}/v1/allocate -H 'Authorization: Bearer {DEVELOPMENT_TOKEN}' -H 'X-Track-ID: student-1'\n\
         Console (token {DEVELOPMENT_ADMIN_TOKEN}): {url}/console\n\
         API, to read and to try: {url}/v1/docs\n"
    );
}

/// One page for each command, named after it: `sandbox-broker-ctl-show.1`.
fn write_man_pages(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
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
    let telemetry = Telemetry::init("info", None, None)?;
    let token = SecretSettings::from_environment(|name| std::env::var_os(name)).csp_api_token.read()?;
    let simulator = Simulator::bind(SimulatorSettings {
        address: SocketAddr::new(args.host, args.port),
        sandboxes: args.sandboxes,
        token: token.unwrap_or_else(|| DEVELOPMENT_CSP_TOKEN.into()),
        state_file: args.state_file,
    })?;
    println!("simulated CSP on http://{}", simulator.address());
    let handle = simulator.handle();
    let stop = stop_requested()?;
    actix_web::rt::spawn(async move {
        stop.await;
        handle.stop(true).await;
    });
    let ended = simulator.run().await;
    telemetry.flush();
    Ok(ended?)
}
