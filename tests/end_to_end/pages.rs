//! The pages in `docs` agree with the programs and the tests that they speak of.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_testbed::program;

/// Repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// Every Rust source below a folder, one after the other.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(&path).unwrap();
        }
    }
    text
}

/// The words between backticks.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

#[test]
fn the_page_of_settings_says_what_the_programs_print() {
    let page = page("docs/settings.md");
    for name in ["countersign-callback", "orders", "logistics"] {
        let printed = Command::new(program(name).unwrap()).arg("settings").output().unwrap();
        assert!(printed.status.success(), "{name} settings: {printed:?}");
        let table = String::from_utf8(printed.stdout).unwrap();
        assert!(
            page.contains(table.trim()),
            "docs/settings.md: the section of {name} has to be what `{name} settings` prints:\n{table}"
        );
    }
}

#[test]
fn every_test_that_the_page_of_failures_names_exists() {
    let page = page("docs/failures.md");
    let tests = sources(&root().join("tests"));
    let named: BTreeSet<&str> = quoted(&page)
        .map(|word| word.rsplit("::").next().unwrap_or(word))
        .filter(|word| word.matches('_').count() >= 3 && !word.contains(['…', ' ', '.']))
        .collect();
    assert!(named.len() > 30, "the page names its tests between backticks: {named:?}");
    let missing: Vec<&str> =
        named.into_iter().filter(|name| !tests.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "docs/failures.md names tests that do not exist: {missing:?}");
}

#[test]
fn every_link_of_a_page_leads_to_a_file() {
    let mut pages = vec!["README.md".to_owned(), "ARCHITECTURE.md".to_owned()];
    for folder in ["docs", "docs/decisions"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    for name in pages {
        let text = page(&name);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.starts_with("http") {
                continue;
            }
            let folder = root().join(&name).parent().unwrap().to_owned();
            assert!(folder.join(file).exists(), "{name} links to {target}, which does not exist");
        }
    }
}

#[test]
fn every_file_that_the_architecture_names_exists() {
    let page = page("ARCHITECTURE.md");
    let life = page.split("## One message's life").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut crate_name = "";
    let mut count = 0;
    for word in quoted(life).filter(|word| word.ends_with(".rs") || word.ends_with('/')) {
        let (first, rest) = word.split_once("/src/").unwrap_or(("", word));
        if !first.is_empty() {
            crate_name = first;
        }
        let file = root().join("crates").join(crate_name).join("src").join(rest);
        assert!(file.exists(), "ARCHITECTURE.md names {word}: {} does not exist", file.display());
        count += 1;
    }
    assert!(count > 15, "the table of a message's life names its files: {count}");
}
