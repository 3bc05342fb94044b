//! `hearken shield`: in front of every listener of an interface, without a configuration.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::{CliError, Done, Span};
use crate::config::{Config, Pattern};

#[derive(Debug, Args)]
pub(super) struct ShieldArgs {
    /// The interface to protect, such as eth0
    #[arg(value_name = "INTERFACE")]
    interface: String,
    /// Leave these listeners to the kernel: ports as 22 or 8000-8100, or an address with ports; may be given several times
    #[arg(long, value_name = "LISTENER")]
    except: Vec<Pattern>,
    /// Cores to answer on [default: all but the first]
    #[arg(long, value_name = "CORES", value_delimiter = ',')]
    cores: Vec<usize>,
    /// Where the control socket is [default: /run/hearken/hearken.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// End by itself after this time
    #[arg(long = "for", value_name = "TIME")]
    duration: Option<Span>,
    /// Print the configuration that this stands for, and end
    #[arg(long)]
    show_config: bool,
}

impl ShieldArgs {
    pub(super) fn run(self, out: &mut impl Write) -> Done {
        check_name(&self.interface)?;
        let text = self.config_text();
        if self.show_config {
            write!(out, "{text}")?;
            return Ok(());
        }
        let config = Config::parse_beside_kernel(text)?;
        crate::start::run(&config, self.duration.map(|span| span.0), out)
    }

    /// True if it runs, and does not only show what it would run.
    pub(super) fn is_server(&self) -> bool {
        !self.show_config
    }

    /// The file that the command stands for.
    fn config_text(&self) -> String {
        let mut text = String::new();
        if let Some(socket) = &self.socket {
            text += &format!("[control]\nsocket = {socket:?}\n\n");
        }
        if !self.cores.is_empty() {
            text += &format!("[workers]\ncores = {:?}\n\n", self.cores);
        }
        text += &format!("[shield]\ninterface = {:?}\n", self.interface);
        if !self.except.is_empty() {
            let except: Vec<String> = self.except.iter().map(Pattern::to_string).collect();
            text += &format!("except = {except:?}\n");
        }
        text
    }
}

/// The configuration of a bare `hearken shield INTERFACE`.
pub(super) fn config_for(interface: &str) -> Result<Config, CliError> {
    check_name(interface)?;
    Ok(Config::parse_beside_kernel(format!("[shield]\ninterface = {interface:?}\n"))?)
}

fn check_name(interface: &str) -> Done {
    if interface.is_empty() || interface.contains(['"', '\\', ',', '/']) || interface.len() > 15 {
        return Err(CliError::Usage(format!("\"{interface}\" is no interface's name; see \"ip link\"")));
    }
    Ok(())
}
