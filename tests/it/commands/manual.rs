//! Help, completions and the manual, from one definition.

use std::process::{Command, Stdio};

use clap::CommandFactory as _;
use keycard::cli::Arguments;

fn keycard(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_keycard"))
        .args(arguments)
        .env_clear()
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// Every command with its words.
fn commands(
    command: &clap::Command,
    words: &[String],
    found: &mut Vec<(Vec<String>, clap::Command)>,
) {
    found.push((words.to_vec(), command.clone()));
    for sub in command.get_subcommands() {
        let words = [words, &[sub.get_name().to_owned()]].concat();
        commands(sub, &words, found);
    }
}

#[test]
fn every_command_has_an_example_a_page_and_no_argument_without_a_word() {
    let mut all = Vec::new();
    commands(&Arguments::command(), &[], &mut all);
    assert!(all.len() > 15, "{}", all.len());
    for (words, command) in all {
        let help = command.get_after_help().map(ToString::to_string);
        let help = help.unwrap_or_default();
        let name = [&["keycard".to_owned()], &words[..]].concat().join(" ");
        let example = help.strip_prefix("Example:\n  ");
        let example = example.unwrap_or_else(|| panic!("{name}: {help:?}"));
        if words.is_empty() {
            assert!(
                example.contains("Exit codes: 0 done; 1 failed"),
                "{example}"
            );
        } else {
            let words = words.join(" ");
            let is_it = |line: &str| line.starts_with("keycard") && line.contains(&words);
            let shown = example.lines().any(|line| is_it(line.trim_start()));
            assert!(shown, "{name}: {example}");
        }
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{name}: {}",
                argument.get_id()
            );
        }
        let page: Vec<&str> = std::iter::once("man")
            .chain(words.iter().map(String::as_str))
            .collect();
        let (code, page) = keycard(&page);
        assert_eq!(code, Some(0), "{page}");
        let title = name.replace([' ', '-'], "\\-");
        assert!(page.contains(&format!(".SH NAME\n{title}")), "{page}");
        assert!(page.contains("Example:"), "{page}");
    }
    let (code, said) = keycard(&["man", "lease", "lost"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("it has list, show, renew, revoke"), "{said}");
}

#[test]
fn shells_take_the_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script) = keycard(&["completions", shell]);
        assert_eq!(code, Some(0));
        for word in ["connect", "fetch", "--format"] {
            let word = if shell == "fish" {
                word.trim_start_matches('-')
            } else {
                word
            };
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let (_, script) = keycard(&["completions", "bash"]);
    let complete = format!(
        "{script}\nCOMP_WORDS=(keycard lease re) COMP_CWORD=2; _keycard keycard re lease; echo ${{COMPREPLY[*]}}"
    );
    let output = Command::new("bash")
        .args(["-c", &complete])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.trim(), "renew revoke");
}

/// A pseudo-terminal by util-linux's `script`.
#[test]
fn only_a_terminal_gets_colours() {
    let directory = tempfile::tempdir().unwrap();
    let on_a_terminal = |variable: &str| {
        let command = format!(
            "env -i TERM=xterm {variable} {} worker --help",
            env!("CARGO_BIN_EXE_keycard")
        );
        let output = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (_, plain) = keycard(&["worker", "--help"]);
    assert!(!plain.contains('\u{1b}'), "{plain}");
    assert!(on_a_terminal("X=1").contains("\u{1b}["));
    assert!(!on_a_terminal("NO_COLOR=1").contains("\u{1b}["));
}
