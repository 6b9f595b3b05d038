//! The pages that the program generates, against their copies in the repository.

use std::path::Path;

use clap::ValueEnum as _;
use sandbox_broker::reference::Page;
use test_support::program;

#[test]
fn the_snapshots_of_the_reference_are_what_the_program_prints() {
    for page in Page::value_variants() {
        let name = page.to_possible_value().unwrap().get_name().to_owned();
        let output = program(&["reference", &name]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page.path());
        if std::env::var_os("BROKER_UPDATE_SNAPSHOT").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &output.stdout).unwrap();
        }
        let kept = std::fs::read(&path).unwrap_or_default();
        let update = "BROKER_UPDATE_SNAPSHOT=1 cargo test --test api reference";
        assert!(kept == output.stdout, "{} is out of date: run {update}, and look at it", page.path());
    }
}
