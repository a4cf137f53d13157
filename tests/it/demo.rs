//! `make demo`: the story is told to its end, and leaves nothing behind however it ends.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use keycard::clock::monotonic_now;

/// Tells a story until a line begins with `last`, and interrupts it there as Ctrl-C does. What it
/// said, and how it ended.
fn told(kind: &str, last: Option<&str>) -> (String, ExitStatus) {
    let directory = TempDir::with_prefix("keycard-told-").unwrap();
    let mut story = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/demo/demo.py"))
        .arg(kind)
        .env("TMPDIR", directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut said = String::new();
    for line in BufReader::new(story.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if last.is_some_and(|last| line.starts_with(last)) {
            let group = format!("-{}", story.id());
            let status = Command::new("kill").args(["-INT", "--", &group]).status();
            assert!(status.unwrap().success());
        }
        said.push_str(&line);
        said.push('\n');
    }
    let status = story.wait().unwrap();
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}\n{said}");
    await_end_of_processes_at_home_in(&directory);
    for port in ports(&said) {
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "{said}");
    }
    (said, status)
}

/// Every command of a story has its directory as HOME. An interrupted one may need a moment longer
/// than the story.
fn await_end_of_processes_at_home_in(directory: &TempDir) {
    let home = format!("HOME={}", directory.path().display());
    let deadline = monotonic_now() + Duration::from_secs(90);
    loop {
        let running: Vec<String> = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| {
                let process = entry.unwrap().path();
                // Processes end while this looks.
                let environment = std::fs::read(process.join("environ")).ok()?;
                let is_at_home = String::from_utf8_lossy(&environment).contains(&home);
                let command = std::fs::read(process.join("cmdline")).unwrap_or_default();
                is_at_home.then(|| String::from_utf8_lossy(&command).replace('\0', " "))
            })
            .collect();
        if running.is_empty() {
            return;
        }
        assert!(monotonic_now() < deadline, "still running: {running:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The ports that keycard.toml names.
fn ports(said: &str) -> Vec<u16> {
    said.split("@127.0.0.1:")
        .skip(1)
        .map(|rest| rest.split('/').next().unwrap().parse().unwrap())
        .collect()
}

fn assert_whole(said: &str, status: ExitStatus) {
    assert!(status.success(), "{status}\n{said}");
    assert!(!ports(said).is_empty());
    let (life, end) = said.split_once("== Its time is up").unwrap();
    let logins = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let mut logins: Vec<String> = words
            .filter(|word| word.starts_with("kc_shop_app_"))
            .map(str::to_owned)
            .collect();
        logins.sort_unstable();
        logins.dedup();
        logins
    };
    let [_, orders] = &logins(life)[..] else {
        panic!("two services, two logins: {said}");
    };
    assert!(orders.starts_with("kc_shop_app_orders_svc_"), "{said}");
    assert!(life.contains("generation           2"), "{said}");
    let secret = "/orders-svc/shop-app/shop.";
    assert!(life.contains(secret), "{said}");
    let (end, memory) = end.split_once("== What the ledger remembers").unwrap();
    assert!(
        end.contains("password authentication failed for user"),
        "{said}"
    );
    assert_eq!(
        logins(end),
        [orders.as_str()],
        "only where it is refused: {said}"
    );
    assert!(!end.contains(secret), "{said}");
    assert!(
        memory.contains("closed") && memory.contains("expired"),
        "{said}"
    );
}

#[test]
fn the_story_is_told_on_postgres_alone() {
    let (said, status) = told("embedded", None);
    assert_whole(&said, status);
}

#[test]
fn the_story_is_told_on_rabbitmq_and_secrets_manager() {
    let (said, status) = told("aws", None);
    assert_whole(&said, status);
}

#[test]
fn ctrl_c_leaves_nothing_running_and_nothing_lying_about() {
    for (kind, last) in [
        ("embedded", "installation = "),
        ("embedded", "$ keycard worker &"),
        ("embedded", "$ keycard request"),
        ("embedded", "== Another service"),
        ("embedded", "== Its time is up"),
        ("aws", "$ keycard request"),
    ] {
        let (said, status) = told(kind, Some(last));
        assert_eq!(status.code(), Some(130), "{kind}, {last}: {said}");
        assert!(!said.contains("== What the ledger remembers"), "{said}");
    }
}

/// README shows a part of the story: every command in it is one of the story's, in its order.
#[test]
fn readme_quotes_the_story() {
    let root = env!("CARGO_MANIFEST_DIR");
    let readme = std::fs::read_to_string(format!("{root}/README.md")).unwrap();
    let story = std::fs::read_to_string(format!("{root}/tests/demo/demo.py")).unwrap();
    let quoted = readme.split_once("```console\n").unwrap().1;
    let quoted = quoted.split_once("```").unwrap().0;
    assert_eq!(quoted.lines().count(), 12);
    let mut rest = story.as_str();
    for command in quoted.lines().filter_map(|line| line.strip_prefix("$ ")) {
        let found = rest.split_once(command);
        rest = found
            .unwrap_or_else(|| panic!("{command} is not in the story"))
            .1;
    }
}
