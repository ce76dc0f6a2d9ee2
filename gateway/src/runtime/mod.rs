//! Threads, tasks and timers. Nothing here knows about requests.

mod coalescing_waker;
mod coarse_timer;
mod lazy_deadline;
mod open_files;
mod stream_tasks;
mod workers;

pub(crate) use coalescing_waker::{CoalescingWaker, poll_body_frame};
pub(crate) use coarse_timer::{CoarseTimer, ConnectionTimer};
pub(crate) use lazy_deadline::{IdleTimeout, LazyDeadline};
pub(crate) use open_files::raise_open_files_limit;
pub(crate) use stream_tasks::{StreamStalls, StreamState, StreamTasks};
pub(crate) use workers::{Workers, worker_index};
