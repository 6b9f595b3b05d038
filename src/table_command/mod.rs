//! `sandbox-broker table`: the commands that make, take over, check and change the table.
//!
//! A command that changes items shows first what it would change; `--yes` does it. The report goes to standard output,
//! progress and errors to standard error.

mod progress_bar;
mod report;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use broker_actors::error::Chain;
use broker_actors::sandbox::ShardCount;
use clap::{Args, Subcommand};

use self::progress_bar::Bar;
use crate::app::{SystemClock, open_store};
use crate::config::StoreSettings;
use crate::dynamo::DynamoClient;
use crate::dynamo::embedded::OpenError;
use crate::dynamo::table::adopt::{AdoptOptions, Adoption};
use crate::dynamo::table::check::TableCheck;
use crate::dynamo::table::create::{CreateOptions, create_table};
use crate::dynamo::table::old_index::{drop_old_index, find_old_index};
use crate::dynamo::table::reshard::Reshard;
use crate::dynamo::table::unadopt::Unadoption;
use crate::dynamo::table::{TableError, TableNames};

/// The exit code when an operator has to change the table or the settings first.
const NEEDS_OPERATOR: u8 = 2;

/// The table commands.
#[derive(Subcommand)]
pub enum TableCommand {
    /// Make the table with its indexes, TTL and point-in-time recovery, or complete it
    Create(CreateArgs),
    /// Take over a table of the Python broker, or of this broker's first form; without --yes, show what that changes
    Adopt(AdoptArgs),
    /// Give an adopted table back to the Python broker; without --yes, show what that changes
    Unadopt(ChangeArgs),
    /// Find claims, sandboxes and index entries that do not fit together; with --yes, repair them
    Check(CheckArgs),
    /// Change the number of shards of the status index while no broker runs; without --yes, show what that changes
    Reshard(ReshardArgs),
    /// Delete the status index of the older form, once the sharded one is in use; without --yes, show which
    DropOldIndex(CheckArgs),
}

/// Arguments of `table create`.
#[derive(Args)]
pub struct CreateArgs {
    /// Shards of the status index, 1 to 512; a table that is there keeps its own
    #[arg(long, env = "DDB_STATUS_SHARDS", default_value = "16", value_name = "N", value_parser = shards)]
    shards: ShardCount,
    /// Write units a second that the table and each index must take at once, for a load that does not grow slowly
    #[arg(long, value_name = "UNITS", value_parser = clap::value_parser!(i64).range(4000..))]
    warm_write: Option<i64>,
    /// Read units a second that they must give at once
    #[arg(long, value_name = "UNITS", value_parser = clap::value_parser!(i64).range(12_000..))]
    warm_read: Option<i64>,
    /// Leave out the indexes by track and by idempotency key: an allocation costs 6 write units instead of 8, and
    /// operators cannot search by student or key
    #[arg(long)]
    without_lookup_indexes: bool,
    #[command(flatten)]
    store: StoreSettings,
}

/// Arguments of `table adopt`.
#[derive(Args)]
pub struct AdoptArgs {
    /// Shards of the status index, 1 to 512; a table that is adopted already keeps its own
    #[arg(long, env = "DDB_STATUS_SHARDS", default_value = "16", value_name = "N", value_parser = shards)]
    shards: ShardCount,
    /// Hours that the old service gave a lab, fractions allowed; required if sandboxes are held that have no end
    #[arg(long, env = "LAB_DURATION_HOURS", value_name = "HOURS", value_parser = hours)]
    lab_duration_hours: Option<Duration>,
    /// Leave out the indexes by track and by idempotency key where they are missing
    #[arg(long)]
    without_lookup_indexes: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Arguments of commands that need the brokers stopped.
#[derive(Args)]
pub struct ChangeArgs {
    /// Do it although brokers seem to be running
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    check: CheckArgs,
}

/// Arguments of commands that may run beside brokers.
#[derive(Args)]
pub struct CheckArgs {
    /// Do it; without this, nothing is changed
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    store: StoreSettings,
}

/// Arguments of `table reshard`.
#[derive(Args)]
pub struct ReshardArgs {
    /// The new number of shards, 1 to 512
    #[arg(long, value_name = "N", value_parser = shards)]
    shards: ShardCount,
    #[command(flatten)]
    change: ChangeArgs,
}

fn shards(text: &str) -> Result<ShardCount, String> {
    let count = text.trim().parse().ok().and_then(ShardCount::new);
    count.ok_or_else(|| format!("it takes a whole number from 1 to {}", ShardCount::MAX))
}

fn hours(text: &str) -> Result<Duration, String> {
    let hours: f64 = text.trim().parse().map_err(|_| "it takes a number of hours".to_owned())?;
    let range = 1.0 / 3600.0..=365.0 * 24.0;
    if range.contains(&hours) {
        return Ok(Duration::from_secs_f64(hours * 3600.0));
    }
    Err("it takes a number of hours from 1 second to 365 days".to_owned())
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Table(#[from] TableError),
}

/// Runs a command. The exit code is 2 if an operator has to change the table or the settings first, and 1 if the command
/// failed, or if a check found what is not repaired.
pub async fn run(command: TableCommand) -> ExitCode {
    let done = match command {
        TableCommand::Create(args) => create(args).await,
        TableCommand::Adopt(args) => adopt(args).await,
        TableCommand::Unadopt(args) => unadopt(args).await,
        TableCommand::Check(args) => check(args).await,
        TableCommand::Reshard(args) => reshard(args).await,
        TableCommand::DropOldIndex(args) => drop_index(args).await,
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            print_err(&format!("sandbox-broker table: {}", Chain(&error)));
            match error {
                CommandError::Table(error) if error.needs_operator() => ExitCode::from(NEEDS_OPERATOR),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn create(args: CreateArgs) -> Result<ExitCode, CommandError> {
    let table = Table::open(args.store).await?;
    let options = CreateOptions {
        shards: args.shards,
        lookup_indexes: !args.without_lookup_indexes,
        warm_write: args.warm_write,
        warm_read: args.warm_read,
    };
    let created = create_table(&table.client.for_tables(), &table.names, &options, print_err).await?;
    print(&report::created(&table.names, &created));
    Ok(ExitCode::SUCCESS)
}

async fn adopt(args: AdoptArgs) -> Result<ExitCode, CommandError> {
    let ChangeArgs { force, check: CheckArgs { yes, store } } = args.change;
    let table = Table::open(store).await?;
    let options = AdoptOptions {
        shards: args.shards,
        lab_duration: args.lab_duration_hours,
        lookup_indexes: !args.without_lookup_indexes,
        force,
    };
    let adoption = Adoption::new(&table.client, &table.names, options, &SystemClock);
    let bar = Bar::new();
    let found = adoption.examine(&bar).await?;
    bar.finish();
    print(&report::adoption(&table.names, &found));
    if !found.without_end.is_empty() {
        let (table, holdings) = (table.names.table, found.without_end.count);
        return Err(TableError::LabDurationNeeded { table, holdings }.into());
    }
    if !found.has_work() {
        print("Nothing to do.");
        return Ok(ExitCode::SUCCESS);
    }
    if !yes {
        print("Nothing was changed. Run the command again with --yes to adopt the table.");
        return Ok(ExitCode::SUCCESS);
    }
    let done = adoption.execute(&bar).await?;
    bar.finish();
    print(&report::adopted(&table.names, &found, &done));
    Ok(ExitCode::SUCCESS)
}

async fn unadopt(args: ChangeArgs) -> Result<ExitCode, CommandError> {
    let ChangeArgs { force, check: CheckArgs { yes, store } } = args;
    let table = Table::open(store).await?;
    let unadoption = Unadoption::new(&table.client, &table.names, &SystemClock);
    let bar = Bar::new();
    let found = unadoption.examine(&bar).await?;
    bar.finish();
    if !found.has_work() {
        print(&format!("The table {} holds nothing of this broker. Nothing to do.", table.names.table));
        return Ok(ExitCode::SUCCESS);
    }
    print(&report::unadoption(&table.names, &found));
    if yes {
        unadoption.execute(force, &bar).await?;
        bar.finish();
        print("Done. The old service can be started. To come back, stop it and run `sandbox-broker table adopt`.");
    } else {
        print("Nothing was changed. Run the command again with --yes to give the table back.");
    }
    Ok(ExitCode::SUCCESS)
}

async fn check(args: CheckArgs) -> Result<ExitCode, CommandError> {
    let table = Table::open(args.store).await?;
    let check = TableCheck::new(&table.client, &table.names, &SystemClock);
    let bar = Bar::new();
    let mut found = check.examine(&bar).await?;
    bar.finish();
    print(&report::check(&table.names, &found));
    if found.repairable() > 0 && !args.yes {
        print("Nothing was changed. Run the command again with --yes to repair what can be repaired.");
    }
    if found.repairable() > 0 && args.yes {
        let repaired = check.repair(&bar).await?;
        found = check.examine(&bar).await?;
        bar.finish();
        print(&report::repaired(&repaired, &found));
    }
    Ok(if found.repairable() + found.unrepairable() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn reshard(args: ReshardArgs) -> Result<ExitCode, CommandError> {
    let ChangeArgs { force, check: CheckArgs { yes, store } } = args.change;
    let table = Table::open(store).await?;
    let reshard = Reshard::new(&table.client, &table.names, args.shards, &SystemClock);
    let bar = Bar::new();
    let found = reshard.examine(&bar).await?;
    bar.finish();
    print(&report::reshard(&table.names, &found));
    if !found.has_work() {
        print("Nothing to do.");
    } else if yes {
        let done = reshard.execute(force, &bar).await?;
        bar.finish();
        print(&format!("Done: {} sandboxes moved. The brokers can be started.", done.moved));
    } else {
        print("Nothing was changed. Stop all brokers, then run the command again with --yes.");
    }
    Ok(ExitCode::SUCCESS)
}

async fn drop_index(args: CheckArgs) -> Result<ExitCode, CommandError> {
    let table = Table::open(args.store).await?;
    let Some(index) = find_old_index(&table.client, &table.names).await? else {
        print(&format!("The table {} has no index of an older form. Nothing to do.", table.names.table));
        return Ok(ExitCode::SUCCESS);
    };
    if !args.yes {
        print(&format!(
            "The index {index} of the table {} would be deleted. The broker does not use it; the old service cannot run \
             without it.\nNothing was changed. Run the command again with --yes to delete it.",
            table.names.table
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let bar = Bar::new();
    drop_old_index(&table.client, &table.names, &bar).await?;
    bar.finish();
    print(&format!("The index {index} of the table {} is deleted.", table.names.table));
    Ok(ExitCode::SUCCESS)
}

/// The table of the settings.
struct Table {
    client: DynamoClient,
    names: TableNames,
    /// Keeps the embedded store open.
    _engine: Option<crate::dynamo::embedded::EmbeddedEngine>,
}

impl Table {
    async fn open(settings: StoreSettings) -> Result<Self, OpenError> {
        let (client, engine) = open_store(&settings).await?;
        Ok(Self { client, names: settings.table_names(), _engine: engine })
    }
}

/// Prints to standard output. A reader that has seen enough (`| head`) is no error.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn print_err(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
