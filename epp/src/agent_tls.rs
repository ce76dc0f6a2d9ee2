//! TLS of the connections to the agents.

use std::{path::PathBuf, sync::Arc};

use forebay_service::tls::{Error, Identity};

/// Flags of programs that connect to agents.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AgentTlsFlags {
    /// Client certificate for connections to the agents (PEM). Without it, connections are plain text
    #[arg(long, value_name = "FILE")]
    pub agent_tls_cert: Option<PathBuf>,
    /// Private key of --agent-tls-cert
    #[arg(long, value_name = "FILE")]
    pub agent_tls_key: Option<PathBuf>,
    /// CA certificates that sign the agents' certificates
    #[arg(long, value_name = "FILE")]
    pub agent_tls_ca: Option<PathBuf>,
}

impl AgentTlsFlags {
    /// Loads the files. `None` without flags: plain text.
    ///
    /// # Errors
    ///
    /// Not all flags are set, or a file cannot be read.
    pub fn load(&self) -> Result<Option<Arc<Identity>>, Error> {
        let flags = "--agent-tls-cert, --agent-tls-key and --agent-tls-ca";
        let Self { agent_tls_cert, agent_tls_key, agent_tls_ca } = self.clone();
        Identity::from_flags(agent_tls_cert, agent_tls_key, agent_tls_ca, &[], flags)
    }
}
