//! Signals: those that end a command, and those that are its child's.
//!
//! What was ignored when keycard was started stays so. SIGTSTP and SIGCONT stay with the system: the
//! terminal sends them to the whole job, keycard and child alike.

use std::fs::File;
use std::future::poll_fn;
use std::task::Poll;

use rustix::process::{Pid, Signal, getpgrp, kill_process};
use rustix::termios::tcgetpgrp;
use tokio::signal::unix::{self, SignalKind, signal};

use super::Failure;

/// What asks a process to end.
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// What else a child may be waiting for.
const TELLING: [Signal; 3] = [Signal::USR1, Signal::USR2, Signal::WINCH];

/// Signals on their way to this process, which from now on end it no more.
pub(super) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Those that ask to end.
    pub(super) fn ending() -> Result<Self, Failure> {
        Self::listen(&ENDING)
    }

    /// Those, and all others that a child may be waiting for.
    pub(super) fn of_a_child() -> Result<Self, Failure> {
        Self::listen(&[&ENDING[..], &TELLING].concat())
    }

    fn listen(signals: &[Signal]) -> Result<Self, Failure> {
        let ignored = ignored();
        let heeded = |one: &&Signal| ignored & (1 << (one.as_raw() - 1)) == 0;
        let listening = signals.iter().filter(heeded).map(|one| {
            let listener = signal(SignalKind::from_raw(one.as_raw()));
            listener.map(|listener| (*one, listener))
        });
        listening
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(|error| Failure::Failed(format!("signals cannot be handled: {error}")))
    }

    /// The next one. Cancel-safe: none is lost.
    pub(super) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (signal, listener) in &mut self.0 {
                if listener.poll_recv(context) == Poll::Ready(Some(())) {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next one that asks to end. Cancel-safe: what it skips has nobody to go to.
    pub(super) async fn end(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if ENDING.contains(&signal) {
                return signal;
            }
        }
    }
}

/// Those that whoever started this process has it ignore, as `nohup` does with SIGHUP; a bit for
/// each. They stay ignored, by a child as well. Without /proc none are.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or_default()
}

/// Passes a signal on to a child. What the terminal sends to the whole job has reached it already:
/// a second Ctrl-C would mean something else to it.
pub(super) fn pass_on(signal: Signal, child: u32) {
    if [Signal::INT, Signal::QUIT].contains(&signal) && is_foreground_job() {
        return;
    }
    let child = i32::try_from(child).ok().and_then(Pid::from_raw);
    if let Some(child) = child {
        // One that has ended needs no signal.
        let _ = kill_process(child, signal);
    }
}

/// Whether a terminal's keys reach this process and its child.
fn is_foreground_job() -> bool {
    let terminal = File::open("/dev/tty");
    terminal.is_ok_and(|terminal| tcgetpgrp(terminal) == Ok(getpgrp()))
}

/// The exit code of what a signal has ended, as shells have it.
pub(super) fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}
