//! Which server of dnpipes a verb talks to.

use std::{env, path::PathBuf, process::ExitCode};

use clap::Args;
use sidestream_client::{self as client, Client, ClientConfig, ClientError};
use sidestream_plan::{Duration, stage::Account};
use sidestream_sidecar::{JoinError, Neighbours};
use tokio::runtime::{Handle, Runtime};

use crate::{
    arguments::{Address, folder},
    output::complain,
    peers::dnpipes_account,
    pod::Pool,
    verb::{failed, wrong},
};

/// The server.
#[derive(Debug, Default, Args)]
pub(crate) struct Server {
    /// The data directory of the server; $SIDESTREAM_DATA_DIR or `sidestream-data` by default
    #[arg(long, value_name = "DIR", conflicts_with = "socket")]
    data_dir: Option<PathBuf>,
    /// A local socket in place of the one in the data directory: of the server, or of the sidecar of this pod
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The address of the server, in place of a local socket: what it was given with --listen
    #[arg(long, value_name = "ADDR", requires = "peers", conflicts_with_all = ["data_dir", "socket"])]
    at: Option<Address>,
    /// The folder that the server was given with --peers
    #[arg(long, value_name = "DIR", value_parser = folder, requires = "at")]
    peers: Option<PathBuf>,
    /// In a pod of a cluster: the servers of this pool, [NAMESPACE/]NAME, by a certificate of the pod's
    #[arg(long, value_name = "POOL", conflicts_with_all = ["data_dir", "socket", "at"])]
    pool: Option<Pool>,
    /// The service account to be to a server at an address: NAMESPACE/NAME
    #[arg(long = "as", value_name = "ACCOUNT", default_value = "default/default", value_parser = account)]
    account: Option<Account>,
    /// How long to go on trying where nobody answers
    #[arg(long, value_name = "SPAN", default_value = "5s")]
    patience: Duration,
}

impl Server {
    /// Does what `asked` does with a client of the server, and says what went wrong.
    pub(crate) fn with<F: Future<Output = Result<ExitCode, Failed>>>(
        self,
        asked: impl FnOnce(Client) -> F,
    ) -> ExitCode {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                complain(format_args!("error: {error}"));
                return failed();
            }
        };
        let config = ClientConfig { patience: self.patience.get(), ..ClientConfig::default() };
        let address = match self.address(&runtime, &config) {
            Ok(address) => address,
            Err(reason) => {
                complain(format_args!("error: {reason}"));
                return failed();
            }
        };
        match runtime.block_on(asked(Client::new(address, config))) {
            Ok(code) => code,
            Err(Failed::Wrong(reason)) => {
                complain(format_args!("error: {reason}"));
                wrong()
            }
            Err(Failed::Refused(reason)) => {
                complain(format_args!("error: {reason}"));
                failed()
            }
        }
    }
}

impl Server {
    /// The one that listens at a local socket.
    pub(crate) fn local(socket: PathBuf) -> Server {
        Server { socket: Some(socket), ..Server::default() }
    }

    /// Where on this machine it keeps its dnpipes, as far as that is known.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        match (&self.socket, &self.at, &self.pool) {
            (Some(socket), _, _) => socket.parent().map(PathBuf::from),
            (None, None, None) => Some(data_dir(self.data_dir.clone())),
            _ => None,
        }
    }

    fn address(self, runtime: &Runtime, config: &ClientConfig) -> Result<client::Address, String> {
        match &self.pool {
            Some(pool) => pool.address(runtime, config),
            None => self.address_here(runtime.handle(), config).map_err(|error| error.to_string()),
        }
    }

    fn address_here(self, runtime: &Handle, config: &ClientConfig) -> Result<client::Address, JoinError> {
        let (Some(Address(host)), Some(folder), Some(account)) = (self.at, self.peers, self.account) else {
            let socket = self.socket.unwrap_or_else(|| socket_of(&data_dir(self.data_dir)));
            return Ok(client::Address::Local(socket));
        };
        let identity = Neighbours::at(folder).identity(runtime, &config.clock, &account)?;
        Ok(client::Address::Peer { host, identity, expected: Neighbours::name(&dnpipes_account())? })
    }
}

fn account(text: &str) -> Result<Account, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(Account { namespace: namespace.into(), name: name.into() })
        }
        _ => Err("this is no account; write NAMESPACE/NAME, such as `shop/till`".into()),
    }
}

/// Why a verb did not do what it was asked.
pub(crate) enum Failed {
    /// What was written is wrong.
    Wrong(String),
    /// It could not be done.
    Refused(String),
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Failed {
        match error {
            ClientError::Name(bad) => Failed::Wrong(bad.to_string()),
            error => Failed::Refused(error.to_string()),
        }
    }
}

/// Where a server keeps its dnpipes: the folder that was named, or that of the environment, or one here.
pub(crate) fn data_dir(named: Option<PathBuf>) -> PathBuf {
    let from_environment =
        || env::var_os(DATA_DIR_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    named.or_else(from_environment).unwrap_or_else(|| PathBuf::from(DATA_DIR))
}

/// The local socket of a server.
pub(crate) fn socket_of(data_dir: &std::path::Path) -> PathBuf {
    data_dir.join("sidestream.sock")
}

const DATA_DIR_VARIABLE: &str = "SIDESTREAM_DATA_DIR";
const DATA_DIR: &str = "sidestream-data";
