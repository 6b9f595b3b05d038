//! The texts that the table commands print.

use std::fmt::Write as _;

use crate::dynamo::table::adopt::AdoptionReport;
use crate::dynamo::table::check::CheckReport;
use crate::dynamo::table::create::{Created, Recovery};
use crate::dynamo::table::reshard::ReshardReport;
use crate::dynamo::table::unadopt::UnadoptReport;
use crate::dynamo::table::{ItemCounts, MissingIndex, Named, RepairReport, TableNames};

/// A report under construction, line by line.
struct Text(String);

impl Text {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    /// A line that counts something, unless there is none.
    fn count(&mut self, count: u64, what: &str) {
        if count > 0 {
            let _ = writeln!(self.0, "  {count:>8}  {what}");
        }
    }

    /// The items of a finding, under what is to be said about them.
    fn named(&mut self, found: &Named, what: &str) {
        self.count(found.count, what);
        for item in &found.first {
            let _ = writeln!(self.0, "            {}", printable(item));
        }
        let more = found.count - found.first.len() as u64;
        if more > 0 {
            let _ = writeln!(self.0, "            and {more} more");
        }
    }

    fn end(self) -> String {
        self.0.trim_end().to_owned()
    }
}

/// Keys and attributes come from the table. A control character in them must not reach the terminal.
fn printable(text: &str) -> String {
    let escape = |character: char| match character.is_control() {
        true => character.escape_unicode().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escape).collect()
}

pub(super) fn created(names: &TableNames, created: &Created) -> String {
    let what = if created.is_new { "created" } else { "exists" };
    let recovery = match created.recovery {
        Recovery::On => "point-in-time recovery is on",
        Recovery::Unsupported => "this server has no point-in-time recovery",
    };
    format!("table {} {what}; {recovery}", names.table)
}

fn items(text: &mut Text, counts: &ItemCounts) {
    text.line("Found:");
    text.count(counts.sandboxes, "sandboxes:");
    for (status, count) in &counts.by_status {
        text.count(*count, &format!("  {status}"));
    }
    text.count(counts.claims, "claims");
    for (prefix, count) in &counts.own {
        text.count(*count, &format!("{prefix}… items of this broker"));
    }
    for (prefix, count) in &counts.foreign {
        text.count(*count, &format!("{prefix}… items of other programs, which are left alone"));
    }
}

pub(super) fn adoption(names: &TableNames, found: &AdoptionReport) -> String {
    let mut text = Text(String::new());
    let state = if found.is_adopted { "is adopted" } else { "is not adopted yet" };
    text.line(&format!("The table {} {state}. Status index: {} shards.", names.table, found.shards.get()));
    items(&mut text, &found.counts);
    text.count(found.holders, "holders keep their sandboxes");
    text.count(found.overdue, "of them are past their end; the broker will end them");
    if found.has_work() {
        text.line("Changes:");
    }
    for MissingIndex { name, keys, beside } in &found.indexes {
        let reason = match beside {
            Some(old) => format!(", beside {old}, whose key DynamoDB cannot change"),
            None => String::new(),
        };
        text.line(&format!("            make the index {name} ({} + {}){reason}", keys.hash, keys.range));
    }
    if found.enables_ttl {
        text.line("            enable TTL on the attribute ttl");
    }
    if found.enables_recovery {
        text.line("            enable point-in-time recovery");
    }
    for (attribute, count) in &found.attributes {
        text.count(*count, &format!("sandboxes get {attribute}"));
    }
    text.count(found.new_claims, "claims to make");
    text.count(found.corrected_claims, "claims to correct");
    text.count(found.orphaned_claims, "claims without a holding to delete");
    text.named(&found.misplaced, "sandboxes that another program changed, to be corrected in the status index:");
    let has_problems =
        !(found.second_holdings.is_empty() && found.without_end.is_empty() && found.unreadable.is_empty());
    if has_problems {
        text.line("Needs your attention:");
    }
    text.named(
        &found.second_holdings,
        "second holdings under one track and key; each stays held until its end, but only the first is answered:",
    );
    text.named(&found.without_end, "holdings without an end, which need LAB_DURATION_HOURS:");
    text.named(
        &found.unreadable,
        "items that cannot be read; the broker does not see them and leaves them as they are; correct or delete them:",
    );
    text.end()
}

pub(super) fn adopted(names: &TableNames, found: &AdoptionReport, done: &RepairReport) -> String {
    let mut text = Text(String::new());
    text.line(&format!("The table {} is adopted:", names.table));
    written(&mut text, done);
    if !found.is_adopted {
        text.line("Stop the old service, if it still runs, and run this command once more: it takes over what the old");
        text.line("service changed meanwhile. Then start the broker.");
    }
    if let Some(index) = &found.old_index {
        text.line(&format!(
            "The index {index} is not used any more. Once there is no way back to the old service, delete it with \
             `sandbox-broker table drop-old-index --yes`."
        ));
    }
    text.end()
}

fn written(text: &mut Text, done: &RepairReport) {
    text.count(done.sandboxes, "sandboxes written");
    text.count(done.claims, "claims written");
    text.count(done.deleted_claims, "claims without a holding deleted");
    if done.sandboxes + done.claims + done.deleted_claims == 0 {
        text.line("  no item had to be written");
    }
    text.named(&done.second_holdings, "second holdings under one track and key, which have no claim:");
    text.named(&done.busy, "items that other programs kept changing; run the command again:");
}

pub(super) fn unadoption(names: &TableNames, found: &UnadoptReport) -> String {
    let mut text = Text(String::new());
    text.line(&format!("To give the table {} back to the Python broker:", names.table));
    for (prefix, count) in &found.deleted {
        text.count(*count, &format!("{prefix}… items to delete"));
    }
    text.count(found.sandboxes, "sandboxes that lose what adoption and this broker added");
    text.count(found.holders, "of all sandboxes are held, and stay held by the same tracks under the same keys");
    text.count(
        found.tombstones,
        "tombstones that become pending_deletion: the old service deletes their accounts once more",
    );
    text.count(found.added, "sandboxes that this broker added, which get the attribute lab_duration_hours");
    text.named(&found.unknown_status, "sandboxes in a status that the old service does not know; they stay in it:");
    text.line("Lost by it:");
    text.line("  - renewals: the old service ends a holding LAB_DURATION_HOURS after its start");
    text.line("  - the times of the next deletion attempts and the last errors of deletions");
    text.line(
        "  - operators' pauses, reports of the background jobs, the record of operators' commands, waiting requests",
    );
    if found.lacks_old_index {
        text.line(&format!(
            "The table has no index {} by status + allocated_at. The old service needs it: make it before you start that.",
            names.status_index
        ));
    }
    if let Some(index) = &found.sharded_index {
        text.line(&format!("The index {index} stays, and empties. It is used again by the next adoption."));
    }
    text.end()
}

pub(super) fn check(names: &TableNames, found: &CheckReport) -> String {
    let mut text = Text(String::new());
    text.line(&format!(
        "The table {}: {} sandboxes, {} of them held, {} claims.",
        names.table, found.sandboxes, found.holders, found.claims
    ));
    findings(&mut text, found);
    text.end()
}

fn findings(text: &mut Text, found: &CheckReport) {
    if found.repairable() + found.unrepairable() == 0 {
        text.line("All of them fit together.");
    }
    if found.repairable() > 0 {
        text.line("To be repaired:");
    }
    text.named(&found.missing_claims, "holdings without a claim; their tracks would get a second sandbox:");
    text.named(&found.different_claims, "claims that differ from their holding:");
    text.named(
        &found.orphaned_claims,
        "claims without a holding; their tracks are answered a sandbox that is not theirs:",
    );
    text.named(&found.misplaced, "sandboxes in the wrong place of the status index:");
    text.named(&found.incomplete, "sandboxes that another program wrote; the broker does not see them:");
    if found.unrepairable() > 0 {
        text.line("Needs your attention:");
    }
    text.named(
        &found.second_holdings,
        "second holdings under one track and key; release those that the track does not use:",
    );
    text.named(
        &found.without_end,
        "holdings without an end; run `sandbox-broker table adopt` with LAB_DURATION_HOURS:",
    );
    text.named(&found.unreadable, "items that cannot be read; correct or delete them:");
}

pub(super) fn repaired(done: &RepairReport, left: &CheckReport) -> String {
    let mut text = Text(String::new());
    text.line("Repaired:");
    written(&mut text, done);
    text.line("A second look:");
    findings(&mut text, left);
    text.end()
}

pub(super) fn reshard(names: &TableNames, found: &ReshardReport) -> String {
    let mut text = Text(String::new());
    let (from, to) = (found.from.get(), found.to.get());
    text.line(&format!("The table {} has {from} shards and gets {to}.", names.table));
    if let Some(interrupted) = found.interrupted {
        text.line(&format!("An earlier run to {} shards was interrupted; brokers do not start.", interrupted.get()));
    }
    text.count(found.sandboxes, "sandboxes");
    text.count(found.moved, "of them move to another shard");
    text.named(&found.left, "items that are in no shard; `sandbox-broker table check` tells more:");
    text.end()
}
