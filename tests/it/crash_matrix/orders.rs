//! What the workers of the matrix are ordered to do wrong, and where they have been; see
//! `keycard::injection`.

use std::fs;
use std::path::PathBuf;

use crate::support::eventually;
use crate::support::site::Site;

/// How long a worker may take to come to a place, on a busy machine.
const ARRIVAL_SECONDS: u64 = 300;

/// The directory that workers read their orders from.
pub struct Orders(PathBuf);

impl Orders {
    pub fn of(site: &Site) -> Self {
        let directory = site.path().join("orders");
        fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    /// What a worker's environment says of it.
    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// From now on a worker meets these faults, one after the other; where it has been before is
    /// forgotten.
    pub fn place(&self, whom: &str, lines: &[String]) {
        let _ = fs::remove_file(self.0.join(format!("{whom}.passed")));
        // Whole at once, as a worker may be about to look.
        let written = self.0.join(format!(".{whom}"));
        fs::write(&written, lines.join("\n")).unwrap();
        fs::rename(written, self.0.join(whom)).unwrap();
    }

    /// Whoever comes there from now on passes: a worker that was killed late may have given up its
    /// stop before, and have put the order back.
    pub fn withdraw(&self, whom: &str) {
        let _ = fs::remove_file(self.0.join(whom));
    }

    fn is_open(&self, whom: &str) -> bool {
        self.0.join(whom).exists()
    }

    fn mark(&self, whom: &str) -> PathBuf {
        self.0.join(format!("{whom}.stopped"))
    }

    /// Whether a worker has met every fault ordered, and is still there if it is to stop.
    pub fn is_met(&self, whom: &str, stops: bool) -> bool {
        !self.is_open(whom) && self.mark(whom).exists() == stops
    }

    /// Waits until a worker has stopped, with orders still to be met.
    pub async fn halfway(&self, whom: &str) {
        eventually(&format!("{whom} stops"), ARRIVAL_SECONDS, async || {
            self.mark(whom).exists().then_some(())
        })
        .await;
    }

    /// Lets a worker go on that has stopped.
    pub fn release(&self, whom: &str) {
        fs::remove_file(self.mark(whom)).unwrap();
    }

    /// Waits until all of these are met at the same time.
    pub async fn all_met(&self, all: &[(String, bool)]) {
        let missing = || -> Vec<_> {
            all.iter()
                .filter(|(whom, stops)| !self.is_met(whom, *stops))
                .map(|(whom, _)| (whom, self.passed(whom)))
                .collect()
        };
        let deadline =
            keycard::clock::monotonic_now() + std::time::Duration::from_secs(ARRIVAL_SECONDS);
        while !missing().is_empty() {
            assert!(
                keycard::clock::monotonic_now() < deadline,
                "no worker came to these places: {:#?}",
                missing()
            );
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// Where workers have been since the orders were placed.
    pub fn passed(&self, whom: &str) -> Vec<String> {
        let passed = fs::read_to_string(self.0.join(format!("{whom}.passed")));
        let passed = passed.unwrap_or_default();
        passed.lines().map(ToOwned::to_owned).collect()
    }
}
