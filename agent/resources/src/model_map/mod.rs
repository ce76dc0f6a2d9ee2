//! Base models of model names, from AgentgatewayPolicies and ConfigMaps.

mod config_map;
mod expression;

pub use self::{
    config_map::{BaseModel, CONFIG_MAP_LABELS, base_model},
    expression::parse_model_map,
};
