//! The policies that have a name. Each is a document.

use super::{Config, Options};

macro_rules! policies {
    ($($(#[$doc:meta])* $name:ident = $file:literal,)+) => {
        /// A policy with a name (`--policy`).
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
        pub enum Policy {
            $($(#[$doc])* $name,)+
        }

        impl Policy {
            /// The document of the policy.
            pub fn document(self) -> &'static str {
                match self {
                    $(Self::$name => include_str!(concat!("presets/", $file, ".yaml")),)+
                }
            }
        }
    };
}

policies! {
    /// The endpoint where a request adds the least waiting, for itself and for all others
    #[default]
    Forebay = "forebay",
    /// llm-d-router without a configuration: queue, KV cache and prefix cache
    LlmDDefault = "llm-d-default",
    /// The guides of llm-d: prefix cache affinity until an endpoint is saturated, then the fewest uncached tokens
    LlmDSticky = "llm-d-sticky",
    /// Uncached tokens times requests in flight (arXiv 2603.15202)
    #[value(name = "lmetric")]
    LMetric = "lmetric",
    /// The cost function of NVIDIA Dynamo
    Dynamo = "dynamo",
    /// The cost function of NVIDIA Dynamo with its settings for agents
    DynamoAgentic = "dynamo-agentic",
    /// Each endpoint in turn
    RoundRobin = "round-robin",
    /// The endpoint with the fewest requests of this picker
    LeastRequest = "least-request",
    /// Any endpoint
    Random = "random",
}

impl Policy {
    /// The configuration.
    ///
    /// # Errors
    ///
    /// None: a test builds each.
    pub fn config(self) -> Result<Config, super::Error> {
        Config::parse(self.document(), Options::default())
    }
}
