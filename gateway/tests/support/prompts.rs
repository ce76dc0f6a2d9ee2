use tokio::task::JoinSet;

use super::harness::QWEN;
use super::upstream::Upstream;

/// A chat request whose model comes first. `rest`: members behind the messages.
pub fn chat(prompt: &str, rest: &str) -> String {
    format!(r#"{{"model":"{QWEN}","messages":[{{"role":"user","content":"{prompt}"}}]{rest}}}"#)
}

/// A text whose blocks differ from those of other seeds.
pub fn text(seed: &str, bytes: usize) -> String {
    let mut text = String::new();
    for n in 0.. {
        text += &format!("{seed} {n} ");
        if text.len() >= bytes {
            break;
        }
    }
    text
}

/// Pods that respond with their port.
pub async fn echo_ports(pods: usize) -> (Vec<u16>, JoinSet<()>) {
    let mut tasks = JoinSet::new();
    let mut ports = Vec::new();
    for _ in 0..pods {
        let pod = Upstream::bind().await;
        let port = pod.port();
        ports.push(port);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok(mut connection) = pod.accept_any().await {
                connections.spawn(async move {
                    while connection.next_request().await.is_some() {
                        connection.respond(200, &port.to_string()).await;
                    }
                });
            }
        });
    }
    (ports, tasks)
}
