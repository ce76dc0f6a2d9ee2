//! The three requests of the guide: two models, and a model that does not exist.

use std::net::SocketAddr;

use anyhow::{Result, bail};

use forebay_e2e::{
    harness::{QWEN, TINYLLAMA},
    load::Client,
};

use crate::output::show;

pub(super) async fn run(gateway: SocketAddr) -> Result<()> {
    let mut client = Client::new(gateway);
    for (model, text, expected) in
        [(QWEN, "Hello Qwen", 200), (TINYLLAMA, "Hello Llama", 200), ("nonexistent", "Should fail", 404)]
    {
        let json = serde_json::json!({
            "model": model,
            "messages": [{ "role": "user", "content": text }],
            "max_tokens": 8,
        });
        let outcome = client.post_json("/v1/chat/completions", &json.to_string()).await?;
        let body: serde_json::Value = serde_json::from_str(&outcome.body).unwrap_or_default();
        let summary = match body.get("error") {
            Some(error) => format!("{}: {}", error["code"], error["message"]),
            None => format!("{} says {}", body["model"], body["choices"][0]["message"]["content"]),
        };
        show(&format!("  POST /v1/chat/completions  {model:<36} {}  {summary}", outcome.status));
        if outcome.status != expected {
            bail!("{model}: status {} instead of {expected}", outcome.status);
        }
    }
    Ok(())
}
