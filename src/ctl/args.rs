//! The commands and their flags.

use broker_actors::sandbox::Status;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use url::Url;

use super::bulk::{DrainStatus, PurgeStatus};
use super::client::encode;
use super::output::Format;
use super::watch::Watch;
use crate::config::values::http_url;

/// Control a running broker over its admin API
///
/// The admin token comes only from the environment variable BROKER_ADMIN_TOKEN (the first one, if it holds several), or
/// from the file that BROKER_ADMIN_TOKEN_FILE names, because other users of the machine can see flags.
///
/// Exit codes: 0 success; 1 the broker failed, or some of several orders failed; 2 wrong usage; 3 the token is not
/// accepted; 4 no such sandbox or actor; 5 refused in the current state (paused, busy, guarded, wrong status); 6 the broker
/// is not reachable or not ready.
#[derive(Args, Debug)]
pub struct CtlArgs {
    /// URL of the broker
    #[arg(long, env = "BROKER_URL", default_value = "http://127.0.0.1:8080", global = true, value_parser = http_url())]
    pub(super) url: Url,
    /// Your name in the broker's records
    #[arg(long, env = "USER", global = true)]
    pub(super) operator: Option<String>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Table, global = true)]
    pub(super) output: Format,
    /// The same as --output json
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Omit the header line of tables
    #[arg(long, global = true)]
    pub(super) no_headers: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Count the sandboxes by status
    Stats {
        #[command(flatten)]
        watch: Watch,
    },
    /// List sandboxes: those that need attention first, available ones last
    #[command(visible_aliases = ["list", "ls"])]
    Sandboxes {
        #[command(flatten)]
        filter: Filter,
        /// The most sandboxes to list
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
        #[command(flatten)]
        watch: Watch,
    },
    /// Find sandboxes by an exact id, owner or key; else by a part of an id, a name, an owner or a lab
    Find {
        /// The text to find
        text: String,
    },
    /// Show one sandbox or several, with all details
    Show {
        /// Ids of the sandboxes
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Show the last changes of a sandbox: when it entered each status, and who moved it there
    History {
        /// Id of the sandbox
        id: String,
    },
    /// Show all actors, or one in detail
    Actors {
        /// Name of the actor
        name: Option<String>,
        #[command(flatten)]
        watch: Watch,
    },
    /// Show who waits for a sandbox, or take a track out of the queue
    Queue {
        /// The track to take out
        #[arg(long, requires = "reason")]
        drop: Option<String>,
        /// Its key, if it is not the track's id
        #[arg(long, requires = "drop")]
        key: Option<String>,
        /// Reason, for the audit log
        #[arg(long, requires = "drop")]
        reason: Option<String>,
        #[command(flatten)]
        watch: Watch,
    },
    /// Show for each lab its sandboxes, its students who wait, and the median time of its holdings
    Labs {
        #[command(flatten)]
        watch: Watch,
    },
    /// Tell whether a class would get its sandboxes, without allocating any
    ///
    /// Needs a track token in BROKER_API_TOKEN, or in the file that BROKER_API_TOKEN_FILE names.
    Preflight {
        /// The number of students
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
        /// Only sandboxes whose name starts with this
        #[arg(long)]
        prefix: Option<String>,
        /// Minutes that the lab takes
        #[arg(long)]
        minutes: Option<u32>,
    },
    /// Pause an actor on every replica
    Pause {
        /// Name of the actor
        actor: String,
        /// Reason, shown to other operators
        #[arg(long)]
        reason: String,
    },
    /// Resume a paused actor on every replica; prints why it was paused
    Resume {
        /// Name of the actor
        actor: String,
    },
    /// Run an actor's job now
    Run {
        /// Name of the actor
        actor: String,
    },
    /// Sync the pool with the CSP now
    Sync {
        /// Report the differences without writing them
        #[arg(long)]
        dry_run: bool,
        /// Sync even if the mass-stale guard refuses
        #[arg(long)]
        force: bool,
    },
    /// Release sandboxes for their owners; cleanup then deletes them with all their contents
    Release {
        /// Ids of the sandboxes
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Retry the deletion of deletion_failed sandboxes: of these, or of all
    RetryDeletion {
        /// Ids of the sandboxes
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<String>,
        /// All deletion_failed sandboxes
        #[arg(long)]
        all: bool,
        /// With --all, only sandboxes whose last error contains this text
        #[arg(long, requires = "all")]
        error: Option<String>,
    },
    /// Set a sandbox aside: it is neither allocated nor deleted
    Quarantine {
        /// Id of the sandbox
        id: String,
        /// Reason, shown to other operators
        #[arg(long)]
        reason: String,
    },
    /// End the quarantine of a sandbox
    Unquarantine {
        /// Id of the sandbox
        id: String,
    },
    /// Keep an allocated or released sandbox from being deleted for a while
    Freeze {
        /// Id of the sandbox
        id: String,
        /// How long, such as 90m, 24h or 3d; 0h ends a freeze
        #[arg(long = "for", value_name = "DURATION", value_parser = hours)]
        duration: f64,
    },
    /// Extend holdings: each ends this long from now, or at its present end if that is later
    Extend {
        /// Ids of the sandboxes
        #[arg(required = true)]
        ids: Vec<String>,
        /// How long, such as 90m, 24h or 3d
        #[arg(long = "for", value_name = "DURATION", value_parser = hours)]
        duration: f64,
    },
    /// Work through all sandboxes of a status: release allocated ones, retry the deletion of deletion_failed ones
    Drain {
        /// Status of the sandboxes
        #[arg(long, value_enum)]
        status: DrainStatus,
        /// Skip the confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Remove the records of all sandboxes of a status. Their accounts stay alive at the CSP, go on costing money, and may
    /// come back
    Purge {
        /// Status of the sandboxes
        #[arg(long, value_enum)]
        status: PurgeStatus,
        /// Skip the confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Show who ordered what, the last first
    Audit {
        /// Only orders of operators whose name contains this
        #[arg(long)]
        by: Option<String>,
        /// Only orders of this kind, such as pause or force-release
        #[arg(long)]
        action: Option<String>,
        /// Only orders about this sandbox or actor
        #[arg(long)]
        target: Option<String>,
        /// The most orders to show
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show the last events of one replica: requests, runs, orders
    Events {
        /// Go on with new events until Ctrl-C
        #[arg(short, long)]
        follow: bool,
    },
}

/// Which sandboxes to list.
#[derive(Args, Debug)]
pub(super) struct Filter {
    /// Only sandboxes of this status
    #[arg(long, value_parser = PossibleValuesParser::new(Status::ALL.map(Status::as_str)))]
    status: Option<String>,
    /// Only sandboxes with this text in their id, name, external id, owner or lab
    #[arg(long)]
    search: Option<String>,
    /// Only sandboxes whose name starts with this
    #[arg(long)]
    name_prefix: Option<String>,
    /// Only sandboxes of this lab
    #[arg(long)]
    lab: Option<String>,
    /// Only allocated sandboxes whose time is over
    #[arg(long)]
    overdue: bool,
    /// Only allocated sandboxes that have been held for longer than this number of hours
    #[arg(long, value_name = "HOURS")]
    held_longer_than: Option<f64>,
}

impl Filter {
    /// The filter as parameters of the API, each after a `&`.
    pub(super) fn query(&self) -> String {
        let hours = self.held_longer_than.map(|hours| hours.to_string());
        let texts = [
            ("status", &self.status),
            ("search", &self.search),
            ("name_prefix", &self.name_prefix),
            ("lab", &self.lab),
            ("held_longer_than_hours", &hours),
        ];
        let texts = texts.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", encode(value.as_ref()?))));
        texts.chain(self.overdue.then(|| "&overdue=true".to_owned())).collect()
    }
}

/// A duration such as `90m`, `24h` or `3d`, in hours.
fn hours(text: &str) -> Result<f64, String> {
    let units = [('m', 1.0 / 60.0), ('h', 1.0), ('d', 24.0)];
    let hours = units.into_iter().find_map(|(unit, hours)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * hours));
    hours.filter(|hours| hours.is_finite()).ok_or_else(|| "it takes a number with m, h or d, such as 24h".to_owned())
}
