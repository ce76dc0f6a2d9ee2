//! A minimal HTTP GET for probes and counters.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Sends a GET. Returns status and body.
pub fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    get_with(address, path, "")
}

/// Like [`get`], with header lines, each with its line end.
pub fn get_with(address: SocketAddr, path: &str, headers: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n")?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("no status line"))?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = Vec::new();
    match length {
        Some(length) => {
            stream.take(length).read_to_end(&mut body)?;
        }
        None => {
            stream.read_to_end(&mut body)?;
        }
    }
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Sends a GET and parses the JSON of a 200 response.
pub fn get_json<T: serde::de::DeserializeOwned>(address: SocketAddr, path: &str) -> anyhow::Result<T> {
    let (status, body) = get(address, path)?;
    anyhow::ensure!(status == 200, "GET {address}{path}: status {status}");
    Ok(serde_json::from_str(&body)?)
}
