//! The settings, read from clap.

use clap::builder::PossibleValue;
use clap::{Arg, CommandFactory as _};

use super::table;
use crate::config::Settings;
use crate::config::secrets::SECRETS;
use crate::config::values::NumberRange;

const HEAD: &str = "\
# Settings

<!-- Printed by `sandbox-broker reference settings`. Change the settings in src/config.rs, not here. -->

Each setting but the secrets is an environment variable and an equal flag: `SYNC_INTERVAL_SEC` is `--sync-interval-sec`. A flag wins over
its variable. All settings are checked at the start. A bad one ends the program with exit code 2 and a message that names
the setting, what it holds and what it takes; secrets are never shown.
";

const SECRETS_HEAD: &str = "
## Secrets

These are no flags, because every user of a machine sees the flags of its processes. Each is an environment variable or,
with `_FILE` after its name, the path of a file that holds it. The tokens of the two APIs in files are read again every
minute and at SIGHUP; `CSP_API_TOKEN` is read at the start.

";

/// A setting, as clap knows it.
pub(super) struct Setting {
    /// The environment variable.
    pub(super) variable: String,
    pub(super) heading: String,
    pub(super) help: String,
    pub(super) default: Option<String>,
    pub(super) range: Option<NumberRange>,
    /// The names that it takes, if it takes no other texts.
    names: Vec<PossibleValue>,
}

impl Setting {
    /// All settings in the order of `--help`.
    pub(super) fn all() -> Vec<Self> {
        Settings::command().get_arguments().filter_map(Self::of).collect()
    }

    fn of(arg: &Arg) -> Option<Self> {
        let names = arg.get_possible_values();
        let default = arg.get_default_values().first();
        Some(Self {
            variable: arg.get_env()?.to_str()?.to_owned(),
            heading: arg.get_help_heading().unwrap_or_default().to_owned(),
            help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
            default: default.map(|value| value.to_string_lossy().into_owned()),
            range: names.first().and_then(|name| name.get_name().parse().ok()),
            names,
        })
    }

    fn row(&self) -> Vec<String> {
        // A default that depends on something else is part of the help text.
        let (meaning, default) = match self.help.split_once(" [default: ") {
            Some((meaning, default)) => (meaning, default.trim_end_matches(']').to_owned()),
            None => (self.help.as_str(), self.default.as_ref().map(|value| format!("`{value}`")).unwrap_or_default()),
        };
        let takes = match &self.range {
            Some(range) if range.is_fractional => format!("{} to {}, with fractions", range.least, range.most),
            Some(range) => format!("{} to {}", range.least, range.most),
            None => self.names.iter().map(described).collect::<Vec<_>>().join("<br>"),
        };
        vec![format!("`{}`", self.variable), default, takes, meaning.to_owned()]
    }
}

fn described(name: &PossibleValue) -> String {
    let meaning = name.get_help().map(|help| format!(": {help}")).unwrap_or_default();
    format!("`{}`{meaning}", name.get_name())
}

pub(super) fn page() -> String {
    let settings = Setting::all();
    let sections = settings.chunk_by(|one, next| one.heading == next.heading).map(|section| {
        let rows = table(&["setting", "default", "takes", "meaning"], section.iter().map(Setting::row));
        format!("\n## {}\n\n{rows}", section[0].heading)
    });
    let secrets = SECRETS.iter().map(|secret| {
        let default = secret.default.map(|default| format!("`{default}`, not with dynamodb")).unwrap_or_default();
        vec![format!("`{}`", secret.variable), default, secret.help.to_owned()]
    });
    let secrets = table(&["setting", "default", "meaning"], secrets);
    format!("{HEAD}{}{SECRETS_HEAD}{secrets}", sections.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_is_its_variable_in_lower_case_with_hyphens() {
        let command = Settings::command();
        command.clone().debug_assert();
        for arg in command.get_arguments() {
            let variable = arg.get_env().and_then(|name| name.to_str()).expect("each setting has a variable");
            assert_eq!(arg.get_long(), Some(&*variable.to_lowercase().replace('_', "-")));
            assert!(arg.get_help_heading().is_some(), "{variable} has no heading");
        }
    }
}
