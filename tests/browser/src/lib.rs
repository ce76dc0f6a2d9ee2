//! A headless Chromium, driven over the DevTools protocol.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

/// Longest wait for the browser and for what a page shows.
const TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A browser with one page.
#[derive(Debug)]
pub struct Browser {
    socket: WebSocketStream<TcpStream>,
    child: Child,
    _profile: tempfile::TempDir,
    session: Option<String>,
    last_id: u64,
    /// Of all domains, in their order.
    pub events: Vec<Value>,
}

/// Returns whether Chromium can be run. Says so if not.
#[allow(clippy::print_stdout, reason = "a test that is skipped must say so")]
pub fn is_installed() -> bool {
    let version = std::process::Command::new("chromium").arg("--version").output();
    let is_installed = version.is_ok_and(|output| output.status.success());
    if !is_installed {
        println!("skipped: chromium is not installed; `cargo xtask test` installs it");
    }
    is_installed
}

impl Browser {
    /// A browser with an empty page.
    ///
    /// # Panics
    /// If Chromium cannot be started. So do the others, and if what is expected is not seen in time.
    pub async fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new("chromium")
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let listening = async {
            loop {
                let line = lines.next_line().await.unwrap().expect("Chromium has ended");
                if let Some(url) = line.strip_prefix("DevTools listening on ") {
                    return url.to_owned();
                }
            }
        };
        let url = tokio::time::timeout(TIMEOUT, listening).await.unwrap();
        let authority = url.strip_prefix("ws://").unwrap().split('/').next().unwrap();
        let stream = TcpStream::connect(authority).await.unwrap();
        let (socket, _) = client_async(&url, stream).await.unwrap();
        let mut browser =
            Self { socket, child, _profile: profile, session: None, last_id: 0, events: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attached = browser
            .call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }))
            .await;
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Calls a method. Events that come before its result are kept.
    pub async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.socket.send(Message::text(message.to_string())).await.unwrap();
        loop {
            let received = tokio::time::timeout(TIMEOUT, self.socket.next()).await.unwrap().unwrap().unwrap();
            let Message::Text(text) = received else { continue };
            let mut message: Value = serde_json::from_str(&text).unwrap();
            if message["id"] == self.last_id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    /// The value of an expression in the page.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut evaluated = self.call("Runtime.evaluate", parameters).await;
        assert!(evaluated["exceptionDetails"].is_null(), "{expression}: {evaluated}");
        evaluated["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub async fn wait(&mut self, expression: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while self.evaluate(expression).await != true {
            assert!(Instant::now() < deadline, "not in time: {expression}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Presses and releases a key.
    pub async fn press(&mut self, key: &str) {
        let (code, number, text) = match key {
            "Enter" => ("Enter", 13, "\r"),
            " " => ("Space", 32, " "),
            "/" => ("Slash", 191, "/"),
            "Tab" => ("Tab", 9, ""),
            "Escape" => ("Escape", 27, ""),
            "ArrowDown" => ("ArrowDown", 40, ""),
            _ => panic!("{key}: not known"),
        };
        let mut event =
            json!({ "type": "keyDown", "key": key, "code": code, "windowsVirtualKeyCode": number });
        if !text.is_empty() {
            event["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", event.clone()).await;
        event["type"] = "keyUp".into();
        self.call("Input.dispatchKeyEvent", event).await;
    }

    /// Writes into the element that has the focus.
    pub async fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// Writes what the page looks like in a colour scheme at a width in pixels.
    pub async fn screenshot(&mut self, scheme: &str, width: u32, path: &Path) {
        self.picture(scheme, (width, 900), 1.0, path).await;
    }

    /// Writes what the page looks like in a colour scheme in a window of this size. Returns the size of the file.
    pub async fn picture(
        &mut self,
        scheme: &str,
        (width, height): (u32, u32),
        scale: f64,
        path: &Path,
    ) -> usize {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [feature] })).await;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let image = {
            let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": scale });
            self.call("Page.captureScreenshot", json!({ "format": "png", "clip": clip })).await
        };
        let image = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            image["data"].as_str().unwrap(),
        );
        let image = image.unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &image).unwrap();
        image.len()
    }

    /// Events of a method.
    pub fn of<'a>(&'a self, method: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |event| event["method"] == method).map(|event| &event["params"])
    }

    /// What the page has reported as wrong.
    pub fn problems(&self) -> Vec<String> {
        let entries = self.of("Log.entryAdded").filter(|it| it["entry"]["level"] == "error");
        let console =
            self.of("Runtime.consoleAPICalled").filter(|it| it["type"] == "error" || it["type"] == "assert");
        let all = self.of("Runtime.exceptionThrown").chain(entries).chain(console);
        all.map(Value::to_string).collect()
    }

    /// Ends the browser and its processes.
    pub async fn end(mut self) {
        self.session = None;
        self.call("Browser.close", json!({})).await;
        tokio::time::timeout(TIMEOUT, self.child.wait()).await.unwrap().unwrap();
    }
}
