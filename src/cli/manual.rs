//! `keycard completions` and `keycard man`: written from the definitions of the commands.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Arguments, Failure, print};

/// The script by which a shell completes keycard's commands.
pub(super) fn completions(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "keycard", &mut script);
    print(&String::from_utf8_lossy(&script));
}

/// The manual page of keycard, or of one of its commands.
pub(super) fn page(words: &[String]) -> Result<(), Failure> {
    let mut keycard = Arguments::command();
    // Completes the commands' names and global options.
    keycard.build();
    let mut command = &keycard;
    for word in words {
        let Some(found) = command.find_subcommand(word) else {
            let known: Vec<&str> = command
                .get_subcommands()
                .map(clap::Command::get_name)
                .collect();
            return Err(Failure::Usage(format!(
                "{} has no command {word:?}; it has {}",
                command.get_display_name().unwrap_or("keycard"),
                known.join(", ")
            )));
        };
        command = found;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .map_err(|error| Failure::Failed(format!("the page cannot be written: {error}")))?;
    print(&String::from_utf8_lossy(&page));
    Ok(())
}
