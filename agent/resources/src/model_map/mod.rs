//! Where it is written which base model a model name belongs to: AgentgatewayPolicies and ConfigMaps.

mod config_map;
mod expression;

pub use self::{
    config_map::{BaseModel, CONFIG_MAP_LABELS, base_model},
    expression::parse_model_map,
};
