//! The settings: environment variables and equal flags.
//!
//! Each setting is one field: its flag, its variable, its default, its range and its help text. clap parses the field
//! into its final type ([`values`]); [`Settings::check`] then checks what depends on more than one setting.
//! `sandbox-broker reference settings` prints the manual from the same fields.

mod allocation;
mod csp;
pub mod environment;
mod jobs;
pub mod secrets;
mod server;
mod store;
pub mod tokens;
pub mod values;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Parser;

pub use self::allocation::AllocationSettings;
pub use self::csp::{CspMode, CspSettings, CspSource};
pub use self::jobs::JobSettings;
pub use self::secrets::{DEVELOPMENT_ADMIN_TOKEN, DEVELOPMENT_TOKEN, SecretSettings};
pub use self::server::{ANY_ORIGIN, LogFormat, ServerSettings};
pub use self::store::{StoreKind, StoreSettings};
use self::tokens::{TokenSources, are_of_development};
use self::values::Problem;

/// All settings, each in its final type. They fit together once [`Settings::check`] has accepted them.
#[derive(Clone, Debug, Parser)]
pub struct Settings {
    /// The table. It comes first: clap fills in defaults in the order of the fields, and those of other settings depend
    /// on the store.
    #[command(flatten)]
    pub store: StoreSettings,
    /// The HTTP server and what it reports.
    #[command(flatten)]
    pub server: ServerSettings,
    /// The cloud service provider.
    #[command(flatten)]
    pub csp: CspSettings,
    /// Allocation.
    #[command(flatten)]
    pub allocation: AllocationSettings,
    /// The background jobs.
    #[command(flatten)]
    pub jobs: JobSettings,
    /// The secrets.
    #[command(flatten)]
    pub secrets: SecretSettings,
}

/// All problems of the settings, one per line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
pub struct BadSettings(pub Vec<Problem>);

impl Settings {
    /// Checks what depends on more than one setting, and returns all problems at once.
    ///
    /// # Errors
    ///
    /// If settings do not fit together.
    pub fn check(self) -> Result<Self, BadSettings> {
        let mut problems = self.tokens().read().err().map_or_else(Vec::new, |bad| bad.0);
        problems.extend(self.csp.source(&self.secrets.csp_api_token).err().into_iter().flatten());
        problems.extend(self.csp.niosxaas(&self.secrets.niosxaas_password).err().into_iter().flatten());
        problems.extend(self.server.check_ports());
        problems.extend(self.allocation.check());
        problems.extend(self.check_origin_of_sandboxes());
        if problems.is_empty() { Ok(self) } else { Err(BadSettings(problems)) }
    }

    /// A real CSP that is named but not used would leave students with invented sandboxes.
    fn check_origin_of_sandboxes(&self) -> Option<Problem> {
        let names_real_csp = self.csp.base_url.is_some() || self.secrets.csp_api_token.is_set();
        // With DynamoDB the mode has a default.
        if self.csp.mode.is_some() || !names_real_csp {
            return None;
        }
        let takes = "http to use the CSP of CSP_BASE_URL and CSP_API_TOKEN with an embedded store, or sim to use a simulated \
                     one; in production set BROKER_STORE=dynamodb instead";
        Some(Problem::new("CSP_MODE", "nothing", takes))
    }

    /// Where the tokens of both APIs come from.
    pub fn tokens(&self) -> TokenSources {
        TokenSources {
            secrets: self.secrets.clone(),
            is_production: self.store.kind == StoreKind::Dynamodb,
            new_per_minute: self.server.broker_new_per_minute,
        }
    }

    /// True if a token from the documentation is in use.
    pub fn uses_development_tokens(&self) -> bool {
        self.tokens().read().is_ok_and(|entries| are_of_development(&entries))
    }

    /// The address to listen on. With tokens that everyone knows, it is this machine's own unless a setting says otherwise.
    pub fn host(&self) -> IpAddr {
        let by_default = if self.uses_development_tokens() { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
        self.server.host.unwrap_or(by_default.into())
    }

    /// Where to listen.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host(), self.server.port)
    }

    /// Where to listen for operators, if they have a port of their own.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.server.admin_port.map(|port| SocketAddr::new(self.host(), port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: &[&str]) -> Settings {
        Settings::parse_from([&["broker"], flags].concat())
    }

    fn with_secrets(flags: &[&str], secrets: &[(&str, &str)]) -> Settings {
        let value = |name: &str| secrets.iter().find(|(it, _)| *it == name).map(|(_, value)| value.into());
        Settings { secrets: SecretSettings::from_environment(value), ..settings(flags) }
    }

    #[test]
    fn the_store_determines_the_defaults_of_other_settings() {
        let trial = settings(&["--broker-store=memory"]).check().unwrap();
        assert_eq!((trial.csp.mode, trial.server.rate_limit_rps), (None, 0));
        assert!(trial.uses_development_tokens());
        let production = settings(&["--broker-store=dynamodb"]);
        assert_eq!((production.csp.mode, production.server.rate_limit_rps), (Some(CspMode::Http), 10));
        assert!(!production.uses_development_tokens());
    }

    #[test]
    fn tokens_that_everyone_knows_stay_on_this_machine_unless_a_setting_says_otherwise() {
        let host = |flags: &[&str], secrets: &[(&str, &str)]| with_secrets(flags, secrets).host().to_string();
        assert_eq!(host(&[], &[]), "127.0.0.1");
        assert_eq!(host(&[], &[("BROKER_API_TOKEN", "own"), ("BROKER_ADMIN_TOKEN", "own-admin")]), "0.0.0.0");
        assert_eq!(host(&[], &[("BROKER_API_TOKEN", "own")]), "127.0.0.1", "the admin token is that of development");
        assert_eq!(host(&["--broker-host=0.0.0.0"], &[]), "0.0.0.0");
    }

    #[test]
    fn all_problems_are_returned_at_once() {
        let token = "the-same-token-of-32-characters-.";
        let flags = ["--broker-store=dynamodb", "--backoff-base-ms=6000"];
        let secrets = [
            ("BROKER_API_TOKEN", &*format!("short, {token}")),
            ("BROKER_ADMIN_TOKEN", token),
            ("BROKER_VIEWER_TOKEN", "brief"),
            ("BROKER_TRACK_TOKENS", "\"token-in-the-wrong-place\""),
        ];
        let found = with_secrets(&flags, &secrets).check().expect_err("they do not fit together").0;
        let found: Vec<_> = found.iter().map(Problem::to_string).collect();
        let starts = [
            "BROKER_API_TOKEN holds a token (number 1, hidden) of 5 characters; it takes tokens of at least 32",
            "BROKER_VIEWER_TOKEN holds a token (number 1, hidden) of 5 characters",
            "BROKER_TRACK_TOKENS holds other JSON, at line 1 column 26; it takes a JSON array of entries",
            "CSP_BASE_URL holds nothing",
            "CSP_API_TOKEN holds nothing",
            "LAB_DURATION_HOURS holds nothing",
            "BACKOFF_BASE_MS holds 6000; it takes no more than BACKOFF_MAX_MS",
        ];
        assert_eq!(found.len(), starts.len(), "{found:?}");
        for (problem, start) in found.iter().zip(starts) {
            assert!(problem.starts_with(start), "{problem}");
            assert!(![token, "short", "brief", "wrong-place"].iter().any(|it| problem.contains(it)), "{problem}");
        }
    }

    #[test]
    fn no_token_belongs_to_two_entries() {
        let problems = |secrets: &[(&str, &str)]| {
            let bad = with_secrets(&["--broker-store=memory"], secrets).check().expect_err("an entry is like another");
            bad.0.iter().map(Problem::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            problems(&[("BROKER_API_TOKEN", "one,same"), ("BROKER_ADMIN_TOKEN", "same")]),
            ["BROKER_ADMIN_TOKEN holds a token of BROKER_API_TOKEN; it takes other tokens than BROKER_API_TOKEN"]
        );
        let entry =
            |name: &str, digit: char| format!(r#"{{"name":"{name}","sha256":"{}"}}"#, digit.to_string().repeat(64));
        for (entries, problem) in [
            ([entry("a", '1'), entry("a", '2')], "the name `a` of another entry"),
            ([entry("a", '1'), entry("b", '1')], "a token of BROKER_TRACK_TOKENS"),
            ([entry("admin", '1'), entry("b", '2')], "the name `admin` of another entry"),
            ([entry("a b", '1'), entry("b", '2')], "an entry (number 1) that is not valid: name takes"),
            ([entry("a", '1'), entry("b", 'g')], "an entry (number 2) that is not valid: sha256 takes 64 hexa"),
        ] {
            let found = problems(&[("BROKER_TRACK_TOKENS", &format!("[{}]", entries.join(",")))]);
            let [found] = &found[..] else { panic!("not one problem: {found:?}") };
            assert!(found.starts_with(&format!("BROKER_TRACK_TOKENS holds {problem}")), "{found}");
        }
    }
}
