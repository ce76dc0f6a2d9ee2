//! A shell in a real terminal of a given size: a server of tmux with a socket of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Longest wait for a screen.
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// A server of tmux with one session. It ends when this is dropped.
#[derive(Debug)]
pub struct Tmux {
    socket: String,
}

/// Returns whether tmux can be run. Says so if not.
#[allow(clippy::print_stdout, reason = "a test that is skipped must say so")]
pub fn is_installed() -> bool {
    let is_installed = Command::new("tmux").arg("-V").output().is_ok_and(|output| output.status.success());
    if !is_installed {
        println!("skipped: tmux is not installed; `cargo xtask test` installs it");
    }
    is_installed
}

impl Tmux {
    /// Starts a shell whose prompt is `ready$`.
    ///
    /// # Panics
    /// If the terminal cannot be started. So do the others, and if what is expected is not seen in time.
    pub fn start(width: u16, height: u16) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let tmux = Self { socket: format!("forebay-test-{}-{number}", std::process::id()) };
        let (width, height) = (width.to_string(), height.to_string());
        tmux.run(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &width,
            "-y",
            &height,
            "env PS1='ready$ ' sh",
        ]);
        tmux.wait_for("the prompt", |screen| screen.contains("ready$"));
        tmux
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket]).args(arguments);
        // A terminal of this session has no effect on the test.
        command.env("LC_ALL", "C.UTF-8").env_remove("TMUX").env_remove("NO_COLOR");
        // No telemetry of the user's cluster.
        command.env("KUBECONFIG", "/nonexistent").env("HOME", "/nonexistent");
        for name in ["FOREBAY_AGENTS", "FOREBAY_RESOURCES", "KUBERNETES_SERVICE_HOST"] {
            command.env_remove(name);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Types text, as it is.
    pub fn write(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
    }

    /// Presses a key: `Enter`, `Escape`, `C-c`.
    pub fn press(&self, key: &str) {
        self.run(&["send-keys", key]);
    }

    /// Runs a command in the shell.
    pub fn command(&self, command: &str) {
        self.write(command);
        self.press("Enter");
    }

    /// The text of the screen.
    pub fn screen(&self) -> String {
        String::from_utf8(self.run(&["capture-pane", "-p"]).stdout).unwrap()
    }

    /// Returns the screen when the condition is true.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let screen = self.screen();
            if condition(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "not seen: {what}\n{screen}");
            thread::sleep(POLL);
        }
    }

    /// Checks that the shell has its terminal again: its screen, line editing, echo and the cursor.
    pub fn is_restored(&self) {
        // The output differs from the command on the screen.
        self.command("echo \"$(stty -a | grep -o -E -- '-?(icanon|echo|isig) ' | tr -d '\\n')\"over");
        let screen = self.wait_for("the modes of the terminal", |screen| screen.contains(" over"));
        assert!(screen.contains("isig icanon echo over"), "{screen}");
        let shown = self.run(&["display-message", "-p", "#{cursor_flag} #{alternate_on}"]).stdout;
        assert_eq!(String::from_utf8(shown).unwrap().trim(), "1 0", "cursor, alternate screen");
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}
