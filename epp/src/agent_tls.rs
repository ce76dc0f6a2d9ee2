//! How the agents are dialled.

use std::{path::PathBuf, sync::Arc};

use forebay_service::tls::{Error, Identity};

/// Flags of whoever follows agents.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AgentTlsFlags {
    /// Certificate to show the agents; without it they are dialled in plain text
    #[arg(long, value_name = "FILE")]
    pub agent_tls_cert: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, value_name = "FILE")]
    pub agent_tls_key: Option<PathBuf>,
    /// Authority that the agents' certificates must be of
    #[arg(long, value_name = "FILE")]
    pub agent_tls_ca: Option<PathBuf>,
}

impl AgentTlsFlags {
    /// Nothing for plain text.
    pub fn load(&self) -> Result<Option<Arc<Identity>>, Error> {
        let flags = "--agent-tls-cert, --agent-tls-key and --agent-tls-ca";
        let Self { agent_tls_cert, agent_tls_key, agent_tls_ca } = self.clone();
        Identity::from_flags(agent_tls_cert, agent_tls_key, agent_tls_ca, flags)
    }
}
