//! What Terraform says of the program is held against the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::{Args as _, FromArgMatches as _};
use sandbox_broker::config::{RawSettings, Settings};

/// Set by nobody: the replica's name must differ from task to task, and DynamoDB needs no directory.
const NOT_FOR_TERRAFORM: [&str; 2] = ["BROKER_DATA_DIR", "BROKER_REPLICA_ID"];

/// ECS gives a task two minutes at most to end, less than the program would take.
const NARROWER_IN_TERRAFORM: &str = "shutdown_grace_sec";

/// On AWS there is a load balancer before the broker, and a real CSP.
const OTHER_DEFAULT_IN_TERRAFORM: [(&str, &str); 2] = [("csp_mode", "\"http\""), ("trusted_proxies", "1")];

#[test]
fn every_setting_can_be_set_and_no_other() {
    let program = program();
    let mut of_the_program: BTreeSet<String> = program
        .get_arguments()
        .filter_map(|argument| Some(argument.get_env()?.to_str().expect("names are ASCII").to_owned()))
        .collect();
    for name in NOT_FOR_TERRAFORM {
        assert!(of_the_program.remove(name), "{name} is no setting any more");
    }

    let variables = text("terraform/variables_broker.tf");
    let mut of_terraform: BTreeSet<String> = settings(&variables).map(|(name, _)| name.to_uppercase()).collect();
    let task = text("terraform/ecs.tf");
    let task = task.split_once("environment = merge(").expect("the environment is there").1;
    let task = task.split_once("log_options").expect("the tokens are there").0;
    let words: Vec<_> = task.split_whitespace().collect();
    let set = words.windows(2).filter(|pair| pair[1] == "=" && is_setting(pair[0]));
    of_terraform.extend(set.map(|pair| pair[0].to_owned()));
    assert_eq!(of_terraform, of_the_program);
}

#[test]
fn settings_have_the_programs_ranges() {
    let variables = text("terraform/variables_broker.tf");
    let (ranges, rest) = between(&variables, "setting_ranges = {", "}");
    let (fractional, _) = between(rest, "fractional_settings = [", "]");
    let mut of_terraform: BTreeSet<&str> = BTreeSet::new();
    for (name, range) in ranges.lines().filter_map(|line| line.split_once(" = [")) {
        let name = name.trim();
        let (least, most) = range.trim_end_matches(']').split_once(", ").expect("a range has two ends");
        let (least, most): (f64, f64) = (least.parse().expect("a number"), most.parse().expect("a number"));
        let is_fractional = fractional.contains(&format!("\"{name}\""));
        let step = if is_fractional { 0.0001 } else { 1.0 };
        assert!(is_taken(name, least) && is_taken(name, most), "{name} takes less than {least} to {most}");
        assert!(!is_taken(name, least - step), "{name} takes less than {least}");
        assert_eq!(is_taken(name, most + step), name == NARROWER_IN_TERRAFORM, "{name} beyond {most}");
        assert_eq!(is_taken(name, least + 0.5), is_fractional, "fractions of {name}");
        of_terraform.insert(name);
    }
    let numbers = settings(&variables).filter(|(_, type_and_default)| type_and_default.starts_with("number"));
    assert_eq!(of_terraform, numbers.map(|(name, _)| name).collect(), "each number has its range");
}

#[test]
fn settings_have_the_programs_defaults() {
    let program = program();
    let variables = text("terraform/variables_broker.tf");
    let mut checked = 0;
    for (name, type_and_default) in settings(&variables) {
        let Some((_, default)) = type_and_default.split_once(", ") else { continue };
        let default = default.trim_end_matches([')', ',']);
        let setting = program.get_arguments().find(|argument| argument.get_id() == name).expect("it is a setting");
        let of_the_program = setting.get_default_values().first().and_then(|value| value.to_str());
        let other = OTHER_DEFAULT_IN_TERRAFORM.iter().find(|(other, _)| *other == name);
        assert_eq!(Some(default), other.map_or(of_the_program, |(_, default)| Some(*default)), "default of {name}");
        checked += 1;
    }
    assert!(checked > OTHER_DEFAULT_IN_TERRAFORM.len(), "the defaults are not found any more");
}

#[test]
fn every_variable_is_described_checked_and_tested_with_a_bad_value() {
    let refused = text("terraform/tests/logic.tftest.hcl");
    let variables = text("terraform/variables.tf") + &text("terraform/variables_broker.tf");
    let blocks: Vec<&str> = variables.split("\nvariable \"").skip(1).collect();
    assert_eq!(blocks.len(), variables.matches("\n  description").count());
    for block in blocks {
        let (name, body) = block.split_once('"').expect("a variable has a name");
        let (body, _) = body.split_once("\n}").expect("a variable ends");
        for part in ["\n  description", "\n  type ", "\n  validation {"] {
            assert!(body.contains(part), "{name} lacks its {}", part.trim());
        }
        // There is no bad value of a type with two.
        let is_bool = body.contains("= bool");
        let is_tested = [",", "]"].iter().any(|end| refused.contains(&format!("var.{name}{end}")));
        assert!(is_bool || is_tested, "no bad value of {name} is tried in logic.tftest.hcl");
    }
}

#[test]
fn the_task_may_do_what_the_adapter_does_and_nothing_else() {
    let adapter = text("src/dynamo/store.rs") + &text("src/dynamo/coordination.rs");
    // The parts of a transaction are the permissions that it needs.
    let calls = [
        (".get_item()", "GetItem"),
        (".batch_get_item()", "BatchGetItem"),
        (".put_item()", "PutItem"),
        ("Put::builder()", "PutItem"),
        (".update_item()", "UpdateItem"),
        ("Update::builder()", "UpdateItem"),
        (".delete_item()", "DeleteItem"),
        ("Delete::builder()", "DeleteItem"),
        ("ConditionCheck::builder()", "ConditionCheckItem"),
        (".query()", "Query"),
        (".scan()", "Scan"),
        (".batch_write_item()", "BatchWriteItem"),
        (".transact_get_items()", "GetItem"),
    ];
    let mut done: BTreeSet<String> =
        calls.iter().filter(|(call, _)| adapter.contains(call)).map(|(_, action)| (*action).to_owned()).collect();
    // The check of the table at every start.
    done.insert("DescribeTable".to_owned());

    let policy = text("terraform/iam.tf");
    let (_, statement) = policy.split_once("UseTheTable").expect("the statement is there");
    let (statement, rest) = statement.split_once("resources").expect("it has resources");
    assert!(rest.starts_with(" = [aws_dynamodb_table.pool.arn]"), "only this table: {rest}");
    assert_eq!(actions(statement), done);
    assert_eq!(policy.matches("\"dynamodb:").count(), done.len() + 1, "beside them only the indexes are queried");
    assert!(
        policy
            .contains("actions   = [\"dynamodb:Query\"]\n    resources = [\"${aws_dynamodb_table.pool.arn}/index/*\"]")
    );
}

fn program() -> clap::Command {
    RawSettings::augment_args(clap::Command::new("broker")).args_override_self(true)
}

/// Whether the program takes this value of a setting.
fn is_taken(name: &str, value: f64) -> bool {
    let flag = format!("--{}={value}", name.replace('_', "-"));
    // So that the first wait may be as long as it likes.
    let Ok(matches) = program().try_get_matches_from(["broker", "--backoff-max-ms=60000", &flag]) else {
        return false;
    };
    let raw = RawSettings::from_arg_matches(&matches).expect("they are its own arguments");
    match Settings::check(raw) {
        Ok(_) => true,
        Err(problems) => !problems.0.iter().any(|problem| problem.starts_with(&format!("{} ", name.to_uppercase()))),
    }
}

/// Name, and type with default, of each attribute of the variable `settings`.
fn settings(variables: &str) -> impl Iterator<Item = (&str, &str)> {
    let (_, settings) = variables.split_once("variable \"settings\"").expect("the variable is there");
    settings.lines().filter_map(|line| line.split_once("= optional(")).map(|(name, rest)| (name.trim(), rest))
}

/// What stands between the two, and all after it.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> (&'a str, &'a str) {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("{begin} is missing"));
    rest.split_once(end).unwrap_or_else(|| panic!("{begin} does not end"))
}

fn actions(statement: &str) -> BTreeSet<String> {
    statement.split('"').filter_map(|word| word.strip_prefix("dynamodb:")).map(str::to_owned).collect()
}

fn is_setting(name: &str) -> bool {
    name.len() > 3 && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
