//! Starts the pickers.

use std::net::IpAddr;

use anyhow::Result;

use super::{Epp, NAMESPACE, Starter};

impl Starter<'_> {
    pub(super) fn start_epps(&self) -> Result<Vec<Epp>> {
        let pools: Vec<Option<&'static str>> = if self.options.shared_picker {
            vec![None]
        } else {
            self.options.pools.iter().map(|pool| Some(pool.name)).collect()
        };
        let mut epps = Vec::new();
        for (index, pool) in pools.into_iter().enumerate() {
            for (replica, ip) in self.network.epps(index, self.options.picker_replicas).enumerate() {
                let name = format!("{}-epp-{replica}", pool.unwrap_or("shared"));
                let process = self.start("forebay-epp", &name, self.epp_args(pool, ip), &[])?;
                epps.push(Epp { pool, ip, process });
            }
        }
        Ok(epps)
    }

    fn epp_args(&self, pool: Option<&str>, ip: IpAddr) -> Vec<String> {
        let mut flags = vec![
            ("--pool-namespace", NAMESPACE.to_owned()),
            ("--grpc-listen", format!("{ip}:9002")),
            ("--health-listen", format!("{ip}:9003")),
            ("--http-listen", format!("{ip}:9090")),
        ];
        flags.extend(pool.map(|pool| ("--pool-name", pool.to_owned())));
        flags.extend(self.options.picker_config.clone().map(|config| ("--config-text", config)));
        let mut args: Vec<String> =
            flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        args.extend(self.tls("forebay-epp", "tls-", "client-ca"));
        args.extend(self.tls("forebay-epp", "agent-tls-", "ca"));
        args
    }
}
