//! Takes the terminal and gives it back: on return, on an error, and before the message of a panic.

use std::{
    io::{self, Stdout, stdout},
    panic,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor, event, execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use tokio::sync::mpsc;

/// Keys that were not handled yet. Typing faster than they are drawn waits in the terminal.
const QUEUED_KEYS: usize = 64;

/// Whether the terminal is taken.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal in raw mode, with another screen. Dropping it restores the terminal.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    pub(super) fn take() -> io::Result<Self> {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            restore();
            previous(panic);
        }));
        IS_TAKEN.store(true, Ordering::SeqCst);
        let taken = enable_raw_mode()
            .and_then(|()| execute!(stdout(), EnterAlternateScreen, cursor::Hide))
            .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        if taken.is_err() {
            restore();
        }
        Ok(Self { terminal: taken? })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Errors are ignored: the terminal may be gone, and there is no other place to show them.
fn restore() {
    if IS_TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(stdout(), cursor::Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// Keys and changes of the size. Ends with an error when the terminal is gone. The thread ends with the process: a read of
/// the terminal cannot be cancelled.
pub(super) fn events() -> mpsc::Receiver<io::Result<event::Event>> {
    let (sender, receiver) = mpsc::channel(QUEUED_KEYS);
    thread::spawn(move || {
        loop {
            let event = event::read();
            let is_over = event.is_err();
            if sender.blocking_send(event).is_err() || is_over {
                break;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use forebay_test_terminal::{Tmux, is_installed};

    use super::*;

    /// Run by the next test, in a terminal.
    #[test]
    #[ignore = "needs a terminal"]
    fn panics_while_the_terminal_is_taken() {
        let mut screen = Screen::take().unwrap();
        screen.terminal.draw(|frame| frame.render_widget("taken", frame.area())).unwrap();
        panic!("a panic of the test");
    }

    #[test]
    fn restores_the_terminal_before_the_message_of_a_panic() {
        if !is_installed() {
            return;
        }
        let tmux = Tmux::start(80, 24);
        let tests = std::env::current_exe().unwrap();
        let name = "top::terminal::tests::panics_while_the_terminal_is_taken";
        tmux.command(&format!(
            "RUST_BACKTRACE=0 {} --exact {name} --ignored --nocapture; echo code=$?",
            tests.display()
        ));
        tmux.wait_for("the message of the panic", |screen| {
            screen.contains("a panic of the test") && screen.contains("\ncode=101")
        });
        tmux.is_restored();
    }
}
