//! What `seine-agent` says before it changes anything.
#![allow(clippy::unwrap_used, missing_docs, reason = "a failed unwrap is a failed test")]

use std::process::{Command, Output};

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_seine-agent")).args(arguments).output().unwrap()
}

fn configured(text: &str) -> (Output, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let output = agent(&["--check", "--config", file.path().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

#[test]
fn help_teaches_and_the_printed_defaults_are_a_configuration() {
    let help = agent(&["--help"]);
    assert!(help.status.success());
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(text.contains("--print-default-config") && text.contains("Examples:"), "{text}");
    let printed = agent(&["--print-default-config"]);
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    let folder = tempfile::tempdir().unwrap();
    let text = text.replace("/etc/seine/cluster", folder.path().to_str().unwrap());
    let (_, said) = configured(&text);
    assert!(!said.contains("configuration"), "{said}");
}

#[test]
fn an_unknown_key_and_a_missing_folder_are_one_clear_line_each() {
    let (output, said) = configured("mainfests = \"/x\"");
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("mainfests"), "{said}");
    let (output, said) = configured("manifests = \"/nonexistent/cluster\"");
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines.iter().any(|l| l.contains("/nonexistent/cluster") && l.contains("create it")),
        "{said}"
    );
}
