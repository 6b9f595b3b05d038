//! The environment of the process beyond the settings that are parsed from it: what it says about the place where the
//! broker runs, and variables that are no settings of this broker.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::process;

use clap::Command;

use super::secrets::SECRETS;
use super::values::Problem;

/// Variables, or their beginnings, that only a broker in production has. With one of them and without `BROKER_STORE`
/// the store is DynamoDB: an embedded store would hand out sandboxes of the simulated CSP.
const SIGNS_OF_PRODUCTION: [&str; 7] = [
    "DDB_TABLE_NAME",
    "DDB_ENDPOINT_URL",
    "CSP_BASE_URL",
    "CSP_API_TOKEN",
    "CSP_API_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_",
    "ECS_CONTAINER_METADATA_URI",
];

/// Settings of the Python broker that mean something else, or nothing, to this one: what it takes instead.
const REFUSED: [(&str, &str); 2] = [
    ("CLEANUP_BATCH_SIZE", "no value: remove it and set CLEANUP_PER_SANDBOX_DELAY_SEC, the seconds between deletions"),
    (
        "CLEANUP_BATCH_DELAY_SEC",
        "no value: remove it and set CLEANUP_PER_SANDBOX_DELAY_SEC, the seconds between deletions",
    ),
];

/// Settings of the Python broker without which this one does the same.
const WITHOUT_EFFECT: [(&str, &str); 2] = [
    ("METRICS_PORT", "metrics are served at /metrics of BROKER_PORT"),
    ("ENABLE_REQUEST_ID", "every request has an id"),
];

/// The path under which the API is served.
const BASE_PATH: &str = "/v1";

/// Variables of other commands and of tests, which are no settings of the broker.
const OTHERS: [&str; 6] = [
    "BROKER_URL",
    "BROKER_UPDATE_SNAPSHOT",
    "BROKER_TEST_SEED",
    "BROKER_TEST_CASES",
    "BROKER_TEST_ROUNDS",
    "BROKER_CHAOS_SECONDS",
];

/// Beginnings of settings that other programs use too.
const SHARED_PREFIXES: [&str; 4] = ["AWS_", "JOB_", "MAX_", "OTEL_"];

/// How many letters an unknown name may differ from the setting that is suggested for it.
const MAX_DISTANCE: usize = 6;

/// Starts the program again without its empty variables: a container passes an optional setting that is not set as an
/// empty one. The process stays the same, so its id does. A program cannot safely remove variables from itself.
pub fn drop_empty_variables() {
    let has_empty = std::env::vars_os().any(|(_, value)| value.is_empty());
    if let (true, Ok(program)) = (has_empty, std::env::current_exe()) {
        let mut arguments = std::env::args_os();
        let mut command = process::Command::new(program);
        command.arg0(arguments.next().unwrap_or_default()).args(arguments).env_clear();
        command.envs(std::env::vars_os().filter(|(_, value)| !value.is_empty()));
        // It returns only if it fails. The program goes on, and each setting refuses its empty value by name.
        drop(command.exec());
    }
}

/// The variables of this process.
#[derive(Clone, Debug)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// Reads them.
    pub fn of_process() -> Self {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Self(std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// The same command line, whose default store is the one that this environment calls for.
    pub fn adapt(&self, command: Command) -> Command {
        let is_sign = |name: &str| SIGNS_OF_PRODUCTION.iter().any(|sign| name.starts_with(sign));
        if self.0.iter().any(|(name, _)| is_sign(name)) { with_dynamodb(command) } else { command }
    }

    /// Settings of the Python broker that cannot be honoured.
    pub fn refused(&self) -> Vec<Problem> {
        let mut problems: Vec<_> =
            REFUSED.iter().filter_map(|(name, takes)| Some(Problem::new(name, self.get(name)?, *takes))).collect();
        if let Some(path) = self.get("API_BASE_PATH").filter(|path| path.trim_end_matches('/') != BASE_PATH) {
            let takes =
                format!("{BASE_PATH}, the only path of the API; a proxy in front of the broker can map another one");
            problems.push(Problem::new("API_BASE_PATH", path, takes));
        }
        problems
    }

    /// Variables that look like settings and are none, each with what to do about it. `command` has the settings.
    pub fn unknown(&self, command: &Command) -> Vec<String> {
        let mut known = BTreeSet::new();
        collect_variables(command, &mut known);
        let secrets = SECRETS.iter().map(|secret| secret.variable);
        known.extend(secrets.flat_map(|name| [name.to_owned(), format!("{name}_FILE")]));
        let prefixes: BTreeSet<_> = known.iter().filter_map(|name| name.split_inclusive('_').next()).collect();
        let is_ours = |name: &str| {
            let prefix = name.split_inclusive('_').next().unwrap_or(name);
            prefixes.contains(prefix) && !SHARED_PREFIXES.contains(&prefix)
        };
        let is_known = |name: &str| {
            let explained = REFUSED.iter().any(|(it, _)| *it == name);
            explained || known.contains(name) || OTHERS.contains(&name)
        };
        let unknown = self.0.iter().filter_map(|(name, _)| {
            if let Some((_, instead)) = WITHOUT_EFFECT.iter().find(|(it, _)| it == name) {
                return Some(format!("{name} has no effect: {instead}"));
            }
            if is_known(name) || !is_ours(name) {
                return None;
            }
            let nearest = known.iter().map(|it| (strsim::osa_distance(name, it), it)).min();
            let nearest = nearest.filter(|(distance, _)| *distance <= MAX_DISTANCE);
            let hint = nearest.map(|(_, nearest)| format!("; did you mean {nearest}?")).unwrap_or_default();
            Some(format!("{name} is no setting of this broker{hint}"))
        });
        unknown.collect()
    }
}

/// Makes DynamoDB the default of every command that takes a store.
fn with_dynamodb(command: Command) -> Command {
    let command = command.mut_args(|arg| if arg.get_id() == "kind" { arg.default_value("dynamodb") } else { arg });
    command.mut_subcommands(with_dynamodb)
}

fn collect_variables(command: &Command, variables: &mut BTreeSet<String>) {
    let names = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str());
    variables.extend(names.map(str::to_owned));
    command.get_subcommands().for_each(|command| collect_variables(command, variables));
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;
    use crate::config::{Settings, StoreSettings};

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_sign_of_production_changes_the_default_store_of_every_command() {
        let command = || {
            let table = StoreSettings::augment_args(Command::new("table"));
            StoreSettings::augment_args(Command::new("broker")).subcommand(table)
        };
        let default = |command: &Command| {
            let store = command.get_arguments().find(|arg| arg.get_id() == "kind").unwrap();
            store.get_default_values()[0].to_str().unwrap().to_owned()
        };
        let defaults = |variables: &[(&str, &str)]| {
            let command = environment(variables).adapt(command());
            [default(&command), default(command.get_subcommands().next().unwrap())]
        };
        assert_eq!(defaults(&[("AWS_REGION", "eu-west-1")]), ["embedded", "embedded"]);
        for sign in ["CSP_API_TOKEN", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "ECS_CONTAINER_METADATA_URI_V4"] {
            assert_eq!(defaults(&[(sign, "x")]), ["dynamodb", "dynamodb"], "{sign}");
        }
    }

    #[test]
    fn a_name_that_resembles_a_setting_is_reported_with_it() {
        let command = Settings::augment_args(Command::new("broker"));
        let unknown = |name: &str| environment(&[(name, "x")]).unknown(&command);
        assert_eq!(
            unknown("CSP_TIMEOUT_READ_SECONDS"),
            ["CSP_TIMEOUT_READ_SECONDS is no setting of this broker; did you mean CSP_TIMEOUT_READ_SEC?"]
        );
        assert_eq!(
            unknown("BROKER_COLOUR_OF_THE_CONSOLE"),
            ["BROKER_COLOUR_OF_THE_CONSOLE is no setting of this broker"]
        );
        for name in ["SYNC_INTERVAL_SEC", "AWS_PROFILE", "MAX_LEVEL", "HOME", "BROKER_URL"] {
            assert_eq!(unknown(name), [""; 0], "{name}");
        }
    }
}
