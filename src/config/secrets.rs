//! Settings that hold a secret. Each is an environment variable or, under the same name with `_FILE`, the path of a
//! file. None is a flag: every user of a machine can read the flags of its processes.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args, Command, FromArgMatches};
use secrecy::{ExposeSecret as _, SecretString};

use super::values::Problem;

/// The largest file that is read for a secret.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What the manual says about a setting that holds a secret.
#[derive(Clone, Copy, Debug)]
pub struct SecretSetting {
    /// The environment variable.
    pub variable: &'static str,
    /// Its value for trials, if there is one.
    pub default: Option<&'static str>,
    /// What it holds.
    pub help: &'static str,
}

/// The track token for trials. It is too short for `BROKER_STORE=dynamodb`.
pub const DEVELOPMENT_TOKEN: &str = "development-track-token";
/// The admin token for trials.
pub const DEVELOPMENT_ADMIN_TOKEN: &str = "development-admin-token";

const API_TOKEN: SecretSetting = SecretSetting {
    variable: "BROKER_API_TOKEN",
    default: Some(DEVELOPMENT_TOKEN),
    help: "Tokens of the track API, comma-separated, together the entry `default`; with BROKER_STORE=dynamodb at least \
           32 characters each, and required unless BROKER_TRACK_TOKENS is set",
};
const TRACK_TOKENS: SecretSetting = SecretSetting {
    variable: "BROKER_TRACK_TOKENS",
    default: None,
    help: "Named tokens of the track API as JSON, as `sandbox-broker token new` prints them",
};
const ADMIN_TOKEN: SecretSetting = SecretSetting {
    variable: "BROKER_ADMIN_TOKEN",
    default: Some(DEVELOPMENT_ADMIN_TOKEN),
    help: "Tokens of the admin API, comma-separated; with BROKER_STORE=dynamodb required, and at least 32 characters each",
};
const VIEWER_TOKEN: SecretSetting = SecretSetting {
    variable: "BROKER_VIEWER_TOKEN",
    default: None,
    help: "Tokens that may only read in the admin API, comma-separated; with BROKER_STORE=dynamodb at least 32 characters \
           each",
};
const CSP_API_TOKEN: SecretSetting = SecretSetting {
    variable: "CSP_API_TOKEN",
    default: None,
    help: "Token for the CSP's API; required with CSP_MODE=http",
};

const NIOSXAAS_PASSWORD: SecretSetting = SecretSetting {
    variable: "NIOSXAAS_PASSWORD",
    default: None,
    help: "Password of NIOSXAAS_EMAIL; required with NIOSXAAS_ENABLED=true",
};

/// All settings that hold a secret.
pub const SECRETS: [SecretSetting; 6] =
    [API_TOKEN, TRACK_TOKENS, ADMIN_TOKEN, VIEWER_TOKEN, CSP_API_TOKEN, NIOSXAAS_PASSWORD];

/// The secrets, as the environment gives them.
#[derive(Clone, Debug)]
pub struct SecretSettings {
    /// `BROKER_API_TOKEN`.
    pub api_token: Secret,
    /// `BROKER_TRACK_TOKENS`.
    pub track_tokens: Secret,
    /// `BROKER_ADMIN_TOKEN`.
    pub admin_token: Secret,
    /// `BROKER_VIEWER_TOKEN`.
    pub viewer_token: Secret,
    /// `CSP_API_TOKEN`.
    pub csp_api_token: Secret,
    /// `NIOSXAAS_PASSWORD`.
    pub niosxaas_password: Secret,
}

impl SecretSettings {
    /// The secrets of an environment. No file is read yet.
    pub fn from_environment(environment: impl Fn(&str) -> Option<OsString>) -> Self {
        let secret = |setting: SecretSetting| Secret::from_environment(setting.variable, &environment);
        Self {
            api_token: secret(API_TOKEN),
            track_tokens: secret(TRACK_TOKENS),
            admin_token: secret(ADMIN_TOKEN),
            viewer_token: secret(VIEWER_TOKEN),
            csp_api_token: secret(CSP_API_TOKEN),
            niosxaas_password: secret(NIOSXAAS_PASSWORD),
        }
    }
}

/// Adds no argument: secrets come from the environment alone.
impl Args for SecretSettings {
    fn augment_args(command: Command) -> Command {
        let list: String =
            SECRETS.iter().map(|it| format!("\n  [env: {}]\n          {}", it.variable, it.help)).collect();
        command.after_help(format!("Secrets (no flags; {{NAME}}_FILE takes the path of a file instead):{list}"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SecretSettings {
    fn from_arg_matches(_: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self::from_environment(|variable| std::env::var_os(variable)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Where a secret is.
#[derive(Clone, Debug)]
pub struct Secret {
    variable: &'static str,
    value: Option<SecretString>,
    file: Option<PathBuf>,
}

impl Secret {
    /// The secret of this variable, or of the file that the variable with `_FILE` names. An empty path is none.
    pub fn from_environment(variable: &'static str, environment: impl Fn(&str) -> Option<OsString>) -> Self {
        let value = environment(variable).map(|value| SecretString::from(value.to_string_lossy().trim()));
        let file = environment(&format!("{variable}_FILE")).filter(|path| !path.is_empty()).map(PathBuf::from);
        Self { variable, value, file }
    }

    /// The environment variable.
    pub fn variable(&self) -> &'static str {
        self.variable
    }

    /// Whether the environment names it.
    pub fn is_set(&self) -> bool {
        self.value.is_some() || self.file.is_some()
    }

    /// Whether it may change while the program runs.
    pub fn is_in_file(&self) -> bool {
        self.file.is_some()
    }

    /// The secret without white space at both ends; `None` if the environment does not name it.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or if there is a value beside it.
    pub fn read(&self) -> Result<Option<SecretString>, Problem> {
        let Some(path) = &self.file else { return Ok(self.value.clone()) };
        if self.value.is_some() {
            let holds = format!("a value (hidden) beside {}_FILE", self.variable);
            return Err(Problem::new(self.variable, holds, "one of the two"));
        }
        let text = read_file(path).map_err(|error| {
            let holds = format!("{} ({error})", path.display());
            Problem::new(&format!("{}_FILE", self.variable), holds, "the path of a text file of at most 1 MiB")
        })?;
        Ok(Some(SecretString::from(text.expose_secret().trim())))
    }
}

fn read_file(path: &Path) -> io::Result<SecretString> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("the file is larger"));
    }
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let value = |name: &str| variables.iter().find(|(it, _)| *it == name).map(|(_, value)| OsString::from(value));
        let read = Secret::from_environment("TOKEN", value).read();
        read.map(|secret| secret.map(|it| it.expose_secret().to_owned())).map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_secret_is_a_variable_or_a_file_without_its_final_newline() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from-a-file\n").unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(secret(&[]), Ok(None));
        assert_eq!(secret(&[("TOKEN", "a-value\n")]), Ok(Some("a-value".to_owned())));
        assert_eq!(secret(&[("TOKEN_FILE", path)]), Ok(Some("from-a-file".to_owned())));
        let both = secret(&[("TOKEN", "a-value"), ("TOKEN_FILE", path)]).unwrap_err();
        assert!(both.starts_with("TOKEN holds a value (hidden) beside TOKEN_FILE"), "{both}");
        let missing = secret(&[("TOKEN_FILE", "/no/such/file")]).unwrap_err();
        assert!(missing.starts_with("TOKEN_FILE holds /no/such/file (No such file"), "{missing}");
        std::fs::write(file.path(), vec![b'x'; 1024 * 1024 + 1]).unwrap();
        assert!(secret(&[("TOKEN_FILE", path)]).unwrap_err().contains("the file is larger"));
    }
}
