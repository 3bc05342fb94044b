//! Which configuration file, and which server: what all subcommands say in the same way.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;

use super::CliError;
use crate::config::{self, Config, DEFAULT_FILE};
use crate::control::client::Client;

/// Which configuration.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// Configuration file (see configs/) [default: /etc/hearken/hearken.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The file that is named, or that of the machine, which must be there then.
    pub(super) fn load(&self) -> Result<Config, CliError> {
        self.load_if_any()?.ok_or_else(|| {
            CliError::Usage(format!(
                "no configuration: there is no {DEFAULT_FILE}, and no other file was named; copy the file of the NIC's \
                 family from configs/ there and fill it in, or say where yours is with --config FILE"
            ))
        })
    }

    /// The same; none if no file is named and the machine has none.
    pub(super) fn load_if_any(&self) -> Result<Option<Config>, CliError> {
        match &self.config {
            None if !is_there(Path::new(DEFAULT_FILE)) => Ok(None),
            None => Ok(Some(Config::load(Path::new(DEFAULT_FILE))?)),
            Some(file) => Ok(Some(Config::load(file)?)),
        }
    }
}

/// Also a file that must not be looked at is there.
fn is_there(file: &Path) -> bool {
    fs::metadata(file).map_or_else(|error| error.kind() != ErrorKind::NotFound, |_| true)
}

/// Which server is asked.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// Its control socket [default: what /etc/hearken/hearken.toml says, else /run/hearken/hearken.sock; without root below
    /// $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Its configuration file, which says where the socket is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ServerArgs {
    pub(super) fn connect(&self) -> Result<Client, CliError> {
        let path = match (&self.socket, &self.config) {
            (Some(socket), _) => socket.clone(),
            (None, Some(config)) => Config::socket_in(config)?,
            (None, None) => return connect_by_default(),
        };
        Ok(Client::connect(&path)?)
    }
}

/// To the server of the machine's configuration file. One that is being edited keeps nobody from a server that is where
/// servers are by default, but is told of if there is none.
fn connect_by_default() -> Result<Client, CliError> {
    let file = Path::new(DEFAULT_FILE);
    let configured = is_there(file).then(|| Config::socket_in(file)).transpose();
    let path = match &configured {
        Ok(Some(socket)) => socket.clone(),
        _ => config::default_socket("hearken"),
    };
    Client::connect(&path).map_err(|error| {
        // Nobody is kept waiting now, so the file is read as a whole.
        let broken = configured.and_then(|socket| socket.map(|_| Config::load(file)).transpose());
        match broken {
            Err(broken) => CliError::Run(format!("{error}\nwhere else it might be is not known: {broken}")),
            Ok(_) => error.into(),
        }
    })
}
