//! `teamgate keys`: the keys of a secret file, which seal what is kept and recognise cookies.
//!
//! Owns: its arguments and sentences. Must not know: what a key looks like.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failure, say};
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::keys::Keyring;

#[derive(Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a secret file with one key
    Generate {
        /// The file; it must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Name the keys of a secret file, the sealing one first
    List(File),
    /// Put a new key on top: it seals from the next start on, the others go on opening
    Rotate(File),
}

#[derive(Args)]
struct File {
    /// The secret file
    #[arg(long, value_name = "FILE", default_value = "teamgate.secret")]
    file: PathBuf,
}

impl Keys {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let input = |error: crate::keys::secret_file::Error| Failure::Input(error.to_string());
        match &self.command {
            Command::Generate { out } => {
                Keyring::generate_file(out, &Entropy::system(), Clock::system().now()).map_err(input)?;
                say(&format!("{}: one new key\n", out.display()))
            }
            Command::List(File { file }) => {
                let ring = Keyring::load(file).map_err(input)?;
                let lines: String = (ring.ids().enumerate())
                    .map(|(place, id)| {
                        format!("{id}  {}\n", if place == 0 { "seals and opens" } else { "opens" })
                    })
                    .collect();
                say(&lines)
            }
            Command::Rotate(File { file }) => {
                Keyring::add_key(file, &Entropy::system(), Clock::system().now()).map_err(input)?;
                say(&format!(
                    "{}: a new key on top. It seals from the next start on; delete old keys when the last session \
                     from before that start is over (session.lifetime)\n",
                    file.display()
                ))
            }
        }
    }
}
