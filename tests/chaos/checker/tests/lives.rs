//! I9: evidence of accounts.

use super::Scenario;
use crate::history::{Completion, Op, Written};

#[test]
fn i9_an_account_that_serves_twice() {
    for (account, is_violated) in [("1", true), ("2", false)] {
        let mut scenario = Scenario::new();
        scenario.complete("a", Op::Release("1".to_owned()), Completion::Indeterminate);
        scenario.write_release("1", "a");
        scenario.write("1", "deleted", Some("a"));
        // The account is listed under another id.
        for status in ["available", "allocated"] {
            let owner = (status == "allocated").then_some("b");
            let mut written = vec![scenario.item("9", status, owner)];
            let Written::Sandbox(_, Some(item)) = &mut written[0] else { panic!("it is a sandbox") };
            item.account = account.to_owned();
            written.extend(owner.map(|owner| scenario.claim_item("9", owner)));
            scenario.commit(written);
        }
        assert_eq!(scenario.check().contains(&"I9"), is_violated, "account {account}");
    }
}

#[test]
fn i9_a_listed_account_that_becomes_stale() {
    for (omitted, is_violated) in [(true, false), (false, true)] {
        let mut scenario = Scenario::new();
        scenario.write("2", "stale", None);
        scenario.evidence.omitted = omitted.then(|| "2".to_owned()).into_iter().collect();
        scenario.write("2", "available", None);
        assert_eq!(scenario.finish().contains(&"I9"), is_violated, "left out of a listing: {omitted}");
    }
}
