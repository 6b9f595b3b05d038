//! The settings as a variable of the Terraform configuration.

use super::settings::Setting;
use crate::config::values::NumberRange;

/// The configuration around what is generated.
const TEMPLATE: &str = include_str!("variables_broker.tf");

/// Settings that `ecs.tf` of the module sets, beside the secrets: what is built there, or has a variable of its own.
pub const SET_BY_THE_TASK: [&str; 12] = [
    "AWS_REGION",
    "BROKER_ADMIN_PORT",
    "BROKER_HOST",
    "BROKER_PORT",
    "BROKER_STORE",
    "CORS_ALLOWED_ORIGINS",
    "CSP_BASE_URL",
    "DDB_GSI1_NAME",
    "DDB_GSI2_NAME",
    "DDB_GSI3_NAME",
    "DDB_TABLE_NAME",
    "LOG_FORMAT",
];

/// Settings that are not set on AWS: DynamoDB needs no directory, and the replica's name must differ between tasks.
const NOT_ON_AWS: [&str; 2] = ["BROKER_DATA_DIR", "BROKER_REPLICA_ID"];

/// Settings that the configuration itself reads, so they are never null. They have the program's default.
const READ_BY_THE_CONFIGURATION: [&str; 7] = [
    "AUTO_EXPIRY_INTERVAL_SEC",
    "BACKOFF_BASE_MS",
    "BACKOFF_MAX_MS",
    "CLEANUP_INTERVAL_SEC",
    "SHUTDOWN_GRACE_SEC",
    "STALE_INTERVAL_SEC",
    "SYNC_INTERVAL_SEC",
];

/// Defaults that differ on AWS: there is a CSP, and a load balancer in front of the broker. Scripts that do not ask to wait
/// do so too. The program has no default for the length of a lab on DynamoDB.
const DEFAULTS_ON_AWS: [(&str, &str); 4] =
    [("ALLOCATE_WAIT_SEC", "20"), ("CSP_MODE", "\"http\""), ("LAB_DURATION_HOURS", "4"), ("TRUSTED_PROXIES", "1")];

/// ECS kills a task 120 s after SIGTERM. The task definition adds 5 s to the grace period.
const MOST_ON_AWS: [(&str, f64); 1] = [("SHUTDOWN_GRACE_SEC", 115.0)];

pub(super) fn page() -> String {
    let mut settings = Setting::all();
    settings.retain(|setting| {
        let name = &*setting.variable;
        !SET_BY_THE_TASK.contains(&name) && !NOT_ON_AWS.contains(&name)
    });
    settings.sort_by(|one, other| one.variable.cmp(&other.variable));

    let ranged = || settings.iter().filter_map(|setting| Some((setting, setting.range.as_ref()?)));
    let ranges = ranged().map(|(setting, range)| (setting.variable.to_lowercase(), range_on_aws(setting, range)));
    let fractional = ranged().filter(|(_, range)| range.is_fractional);
    let fractional = fractional.map(|(setting, _)| format!("    \"{}\",\n", setting.variable.to_lowercase()));
    let types = settings.iter().map(|setting| (setting.variable.to_lowercase(), type_of(setting)));
    TEMPLATE
        .replace("    # RANGES\n", &aligned(ranges.collect()))
        .replace("    # FRACTIONAL\n", &fractional.collect::<String>())
        .replace("    # TYPES\n", &aligned(types.collect()))
}

fn range_on_aws(setting: &Setting, range: &NumberRange) -> String {
    let most = MOST_ON_AWS.iter().find(|(name, _)| *name == setting.variable).map_or(range.most, |(_, most)| *most);
    format!("[{}, {most}]", range.least)
}

fn type_of(setting: &Setting) -> String {
    let kind = if setting.range.is_some() { "number" } else { "string" };
    let on_aws = DEFAULTS_ON_AWS.iter().find(|(name, _)| *name == setting.variable).map(|(_, default)| *default);
    let is_read = READ_BY_THE_CONFIGURATION.contains(&&*setting.variable);
    match on_aws.or(setting.default.as_deref().filter(|_| is_read)) {
        Some(default) => format!("optional({kind}, {default})"),
        None => format!("optional({kind})"),
    }
}

/// Attributes with their equals signs in one column, as `terraform fmt` wants them.
fn aligned(attributes: Vec<(String, String)>) -> String {
    let width = attributes.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    attributes.iter().map(|(name, value)| format!("    {name:width$} = {value}\n")).collect()
}
