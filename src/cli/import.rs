//! `keycard import vault`: a configuration out of the answers of `vault read -format=json`.

mod draft;
mod source;
mod terms;
mod url;

pub use terms::{Fate, Kind, TERMS, Term};

use std::path::PathBuf;

use clap::Subcommand;

use super::{Failure, print};
use draft::Draft;
use source::Source;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Turn connections and roles of Vault's database engine into a keycard.toml on stdout; what
    /// has no equivalent is told on stderr.
    #[command(
        after_help = "Example:\n  keycard import vault my-db.json app-role.json > keycard.toml\n\n\
                      The files are Vault's answers:\n  \
                      vault read -format=json database/config/my-db > my-db.json\n  \
                      vault read -format=json database/roles/app-role > app-role.json\n\n\
                      They do not hold the name that was read, so each file must be \
                      named like it."
    )]
    Vault {
        /// Answers of `vault read -format=json` for database/config/X, database/roles/X or
        /// database/static-roles/X, each named X.json.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let Command::Vault { files } = command;
    let sources: Vec<Source> = files
        .iter()
        .map(|file| Source::read(file))
        .collect::<Result<_, _>>()?;
    for (index, source) in sources.iter().enumerate() {
        let place = source.place();
        if sources[..index].iter().any(|other| other.place() == place) {
            return Err(Failure::Usage(format!(
                "two files hold {place}; name each file like what was read"
            )));
        }
    }
    let (text, notes) = Draft::new(&sources).write();
    for note in notes {
        eprintln!("{note}");
    }
    print(&text);
    Ok(())
}
