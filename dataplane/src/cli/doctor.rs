//! `hearken doctor`: what this machine lacks, and the command that mends it.

use std::io::Write;

use clap::Args;

use super::place::ConfigArgs;
use super::{CliError, Done, print};
use crate::doctor::{self, Grade};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Look at what `hearken shield` needs on this interface, in place of a configuration
    #[arg(value_name = "INTERFACE", conflicts_with = "config")]
    interface: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl DoctorArgs {
    /// Prints the findings; exit code 0 if all are ok, 3 if the worst is a warning, 1 if one fails.
    pub(super) fn run(&self, out: &mut impl Write) -> Done {
        let config = match &self.interface {
            Some(interface) => Some(super::shield::config_for(interface)?),
            None => self.config.load_if_any()?,
        };
        let findings = doctor::examine(config.as_ref());
        print(out, self.json, &findings, || doctor::text(&findings))?;
        match findings.iter().map(|finding| finding.grade).max() {
            None | Some(Grade::Ok) => Ok(()),
            Some(Grade::Warn) => {
                Err(CliError::Warn("it runs; the lines with warn say what would make it better".into()))
            }
            Some(Grade::Fail) => {
                Err(CliError::Run("it does not run; the lines with FAIL say what to do first".into()))
            }
        }
    }
}
