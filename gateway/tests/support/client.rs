use std::net::SocketAddr;

use serde_json::Value;
use tokio::net::TcpStream;

use super::upstream::{Connection, Request};
use super::within;

/// A client connection to the gateway.
pub async fn connect(address: SocketAddr) -> Connection {
    let stream = within("the gateway to accept", TcpStream::connect(address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    Connection::of(stream)
}

pub struct Response {
    pub status: u16,
    pub head: Request,
}

impl Response {
    pub fn text(&self) -> &str {
        self.head.text()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.head.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// `error.code` of an OpenAI error.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().expect("an OpenAI error").to_owned()
    }
}

/// A chat completion request with `body`.
pub fn post(body: &str) -> String {
    post_with("", body)
}

/// `headers`: complete lines, each with its line end.
pub fn post_with(headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: models.example\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

pub async fn read_response(connection: &mut Connection) -> Response {
    let mut head = connection.read_head().await;
    let status = head.line.split(' ').nth(1).unwrap().parse().unwrap();
    connection.read_body(&mut head).await;
    Response { status, head }
}

/// Sends one request on a new connection.
pub async fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> Response {
    let mut connection = connect(address).await;
    connection.write(request).await;
    read_response(&mut connection).await
}

pub async fn get(address: SocketAddr, path: &str) -> Response {
    exchange(address, format!("GET {path} HTTP/1.1\r\nhost: models.example\r\nconnection: close\r\n\r\n"))
        .await
}
