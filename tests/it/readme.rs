//! README's configuration is lived with, word for word.

mod amqp;

/// The block of configuration in README.md that names this installation.
pub fn block(installation: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let begin = format!("```toml\ninstallation = \"{installation}\"\n");
    let at = readme.find(&begin).unwrap() + "```toml\n".len();
    readme[at..].split_once("```").unwrap().0.to_owned()
}
