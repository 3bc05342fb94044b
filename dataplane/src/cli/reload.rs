//! `hearken reload`

use std::io::Write;

use clap::Args;

use super::{Done, ServerArgs};
use crate::control::proto::{Reloaded, Request};

/// Let the server read its configuration file again
#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    /// Only show what would change
    #[arg(long)]
    check: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl ReloadArgs {
    /// Prints the difference, one line a change, and whether it holds.
    pub(super) fn run(&self, out: &mut impl Write) -> Done {
        let reloaded: Reloaded = self.server.connect()?.call(&Request::Reload { check: self.check })?;
        super::print(out, self.json, &reloaded, || text(&reloaded))
    }
}

fn text(reloaded: &Reloaded) -> String {
    let Reloaded { file, applied, total, changes } = reloaded;
    let mut text: String = changes.iter().map(|change| format!("{change}\n")).collect();
    if *total > changes.len() {
        text += &format!("… and {} more\n", total - changes.len());
    }
    text + &match (total, applied) {
        (0, _) => format!("{file}: nothing to change\n"),
        (1, true) => format!("{file}: 1 change applied\n"),
        (_, true) => format!("{file}: {total} changes applied\n"),
        (_, false) => format!("{file}: this would change; nothing was applied\n"),
    }
}
