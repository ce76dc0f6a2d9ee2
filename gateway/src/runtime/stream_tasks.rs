use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns the streams of one HTTP/2 connection. They are cancelled when the connection ends.
#[derive(Clone, Debug)]
pub(crate) struct StreamTasks {
    tasks: TaskTracker,
    connection_ended: CancellationToken,
}

impl StreamTasks {
    pub(crate) fn new(tasks: TaskTracker, connection_ended: CancellationToken) -> Self {
        Self { tasks, connection_ended }
    }
}

impl<F> hyper::rt::Executor<F> for StreamTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let connection_ended = self.connection_ended.clone();
        self.tasks.spawn(async move { connection_ended.run_until_cancelled_owned(stream).await });
    }
}
