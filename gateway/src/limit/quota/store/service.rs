//! The task that has the connection to the store.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline, RedisError, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{self, MissedTickBehavior};

use super::call::{self, UnexpectedReply};
use super::{
    Ask, Call, Change, Changes, Handle, MAX_WAITING, Members, QuotaStoreMetrics, QuotaStoreOptions, Renewal,
    Shared, Status,
};

/// A store that needs longer for a pipeline, or for a connection, is not available.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Between pipelines without a request.
const INTERVAL: Duration = Duration::from_millis(100);
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// For the last calls.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// Of one pipeline.
const MAX_ASKS: usize = 1024;
const MAX_CHANGES: usize = 512;
/// Number of renewals of changes within the lease.
const RENEWALS_PER_LEASE: u32 = 3;

/// Ends when all handles are dropped. Not `Debug`: the client has the URL.
pub(in crate::limit::quota) struct Service<S: Shared> {
    client: Client,
    /// Name of this process in the store.
    gateway: String,
    lease: Duration,
    asks: mpsc::Receiver<Ask<S>>,
    changes: Changes<S>,
    members: Arc<Members<S>>,
    renewals: VecDeque<Renewal<S>>,
    status: Arc<Status>,
    metrics: QuotaStoreMetrics,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Store(#[from] RedisError),
    #[error("no reply within {} ms", TIMEOUT.as_millis())]
    Timeout(#[from] time::error::Elapsed),
    #[error(transparent)]
    Reply(#[from] UnexpectedReply),
}

/// A connection, and the names of the scripts in the store.
struct Connected {
    connection: MultiplexedConnection,
    reserve: String,
    presence: String,
}

/// A call for one set of counters.
struct Exchange<S: Shared> {
    counters: Arc<S>,
    place: S::Place,
    requests: Vec<S::Request>,
    answers: Vec<oneshot::Sender<Option<S::Outcome>>>,
    /// Of those that only read.
    readers: Vec<oneshot::Sender<Option<S::Outcome>>>,
    /// An amount may be granted in advance. Not to a set that is only renewed: it is not used.
    grants: bool,
}

/// Exchanges of one pipeline, one for each set.
struct Batch<S: Shared> {
    exchanges: Vec<Exchange<S>>,
    /// By the address of the counters and the place.
    positions: HashMap<(usize, S::Place), usize>,
}

impl<S: Shared> Service<S> {
    /// The URL is not part of errors: it may contain a password.
    pub(in crate::limit::quota) fn new(
        options: &QuotaStoreOptions,
        metrics: QuotaStoreMetrics,
    ) -> Result<(Handle<S>, Self), RedisError> {
        let client = Client::open(options.url.as_str())?;
        let (sender, asks) = mpsc::channel(MAX_WAITING);
        let changes = Changes(Arc::default());
        // Until the first attempt to connect has failed, requests wait for it.
        let status = Arc::new(Status { is_up: true.into(), gateways: 1.into(), rank: 0.into() });
        let members = Arc::new(Members(Mutex::default()));
        let handle = Handle {
            asks: sender,
            changes: changes.clone(),
            members: members.clone(),
            status: status.clone(),
        };
        let gateway = format!("{:016x}", fastrand::u64(..));
        let service = Self {
            client,
            gateway,
            lease: options.lease,
            asks,
            changes,
            members,
            renewals: VecDeque::new(),
            status,
            metrics,
        };
        Ok((handle, service))
    }

    /// Runs until all handles are dropped.
    pub(in crate::limit::quota) async fn run(mut self) {
        let mut backoff = MIN_BACKOFF;
        loop {
            let error = match self.connect().await {
                Err(error) => error,
                Ok(connected) => {
                    backoff = MIN_BACKOFF;
                    self.set_up();
                    self.members.all().iter().for_each(Shared::changed_all);
                    match self.serve(connected).await {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
            };
            self.set_down(&error);
            if self.refuse(backoff).await {
                return;
            }
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    async fn connect(&self) -> Result<Connected, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let connecting = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            let mut load = Pipeline::new();
            for script in [call::RESERVE, call::PRESENCE] {
                load.cmd("SCRIPT").arg("LOAD").arg(script);
            }
            let (reserve, presence) = load.query_async(&mut connection).await?;
            Ok::<_, RedisError>(Connected { connection, reserve, presence })
        };
        Ok(time::timeout(TIMEOUT, connecting).await??)
    }

    fn set_up(&self) {
        self.status.is_up.store(true, Ordering::Relaxed);
        if self.metrics.up.set(1) == 0 && self.metrics.failures.get() > 0 {
            tracing::info!("quota store connected again");
        }
    }

    fn set_down(&self, error: &Error) {
        self.status.is_up.store(false, Ordering::Relaxed);
        if self.metrics.up.set(0) == 1 || self.metrics.failures.get() == 0 {
            tracing::warn!(%error, "quota store lost, quotas follow their whenStoreUnavailable");
        }
        self.metrics.failures.inc();
    }

    /// Rejects what waits, for a time. True if all handles are dropped.
    async fn refuse(&mut self, wait: Duration) -> bool {
        let until = time::sleep(wait);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return false,
                ask = self.asks.recv() => match ask {
                    // Its answer is dropped with it.
                    Some(ask) => drop(ask),
                    None => return true,
                }
            }
        }
    }

    /// Serves requests until the connection fails.
    async fn serve(&mut self, mut connected: Connected) -> Result<(), Error> {
        let mut interval = time::interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let presence_interval = (self.lease / RENEWALS_PER_LEASE).min(Duration::from_secs(1));
        let mut next_presence = Instant::now();
        loop {
            let mut asks = Vec::new();
            let is_due = tokio::select! {
                count = self.asks.recv_many(&mut asks, MAX_ASKS) => {
                    if count == 0 {
                        return self.end(connected).await;
                    }
                    false
                }
                _ = interval.tick() => true,
            };
            let mut batch = Batch::new();
            asks.into_iter().for_each(|ask| batch.ask(ask));
            let is_presence_due = is_due && Instant::now() >= next_presence;
            if is_due {
                self.changes.take(MAX_CHANGES).into_iter().for_each(|change| batch.add(change, true));
                self.add_renewals(&mut batch, |renewal| renewal.at <= Instant::now());
            }
            if is_presence_due {
                next_presence = Instant::now() + presence_interval;
            }
            if is_presence_due || !batch.exchanges.is_empty() {
                self.exchange(&mut connected, batch, is_presence_due.then_some(true)).await?;
            }
        }
    }

    fn add_renewals(&mut self, batch: &mut Batch<S>, is_due: impl Fn(&Renewal<S>) -> bool) {
        while batch.exchanges.len() < MAX_CHANGES
            && let Some(renewal) = self.renewals.pop_front_if(|renewal| is_due(renewal))
        {
            if let Some(counters) = renewal.counters.upgrade() {
                counters.renewing(&renewal.place);
                batch.add(Change { counters, place: renewal.place }, false);
            }
        }
    }

    /// Gives back what was granted in advance, and writes what was used.
    async fn end(&mut self, mut connected: Connected) -> Result<(), Error> {
        let ending = async {
            while !self.changes.are_none() || !self.renewals.is_empty() {
                let mut batch = Batch::new();
                self.changes.take(MAX_CHANGES).into_iter().for_each(|change| batch.add(change, false));
                self.add_renewals(&mut batch, |_| true);
                self.exchange(&mut connected, batch, None).await?;
            }
            self.exchange(&mut connected, Batch::new(), Some(false)).await
        };
        if let Err(error) = time::timeout(END_TIMEOUT, ending).await.map_err(Error::from).flatten() {
            tracing::warn!(%error, "what was used of quotas since the last call is not in the store");
        }
        Ok(())
    }

    /// Sends the calls of a batch, and applies the replies. `presence`: whether this gateway stays, if that is told.
    async fn exchange(
        &mut self,
        connected: &mut Connected,
        batch: Batch<S>,
        presence: Option<bool>,
    ) -> Result<(), Error> {
        let lease_ms = u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX);
        let mut pipeline = Pipeline::new();
        if let Some(is_here) = presence {
            call::add_presence(&mut pipeline, &connected.presence, &self.gateway, lease_ms, is_here);
        }
        let exchanges = batch.exchanges;
        let calls: Vec<(Call, S::Sent)> =
            exchanges.iter().map(|it| it.counters.call(&it.place, &it.requests, it.grants)).collect();
        for (call, _) in &calls {
            call.add_to(&mut pipeline, &connected.reserve, &self.gateway, lease_ms);
        }
        self.metrics.calls.inc_by(calls.len() as u64);
        // The store counts the lease from a later time.
        let until = Instant::now() + self.lease.mul_f64(0.9);
        let replies =
            time::timeout(TIMEOUT, pipeline.query_async::<Vec<Value>>(&mut connected.connection)).await;
        let parsed = replies.map_err(Error::from).and_then(|replies| {
            let mut values = replies?.into_iter();
            let missing = || UnexpectedReply("too few replies".to_owned());
            if presence.is_some() {
                let share = call::presence(values.next().ok_or_else(missing)?)?;
                self.status.gateways.store(share.gateways(), Ordering::Relaxed);
                self.status.rank.store(share.rank(), Ordering::Relaxed);
                self.metrics.gateways.set(i64::try_from(share.gateways()).unwrap_or(i64::MAX));
            }
            let replies = calls.iter().map(|(call, _)| call.reply(values.next().ok_or_else(missing)?));
            Ok(replies.collect::<Result<Vec<_>, _>>()?)
        });
        let replies = match parsed {
            Ok(replies) => replies,
            Err(error) => {
                exchanges.iter().for_each(|it| it.counters.failed(&it.place));
                return Err(error);
            }
        };
        for ((exchange, (_, sent)), reply) in exchanges.into_iter().zip(calls).zip(replies) {
            let Exchange { counters, place, requests, answers, readers, grants: _ } = exchange;
            let applied = counters.apply(&place, sent, requests, &reply, until);
            if applied.must_be_renewed {
                let at = Instant::now() + self.lease / RENEWALS_PER_LEASE;
                self.renewals.push_back(Renewal { at, counters: Arc::downgrade(&counters), place });
            }
            // What was reserved for those that do not wait any more is given back: the outcome is dropped.
            for (answer, outcome) in answers.into_iter().zip(applied.outcomes) {
                let _ = answer.send(Some(outcome));
            }
            for reader in readers {
                let _ = reader.send(None);
            }
        }
        Ok(())
    }
}

impl<S: Shared> Batch<S> {
    fn new() -> Self {
        Self { exchanges: Vec::new(), positions: HashMap::new() }
    }

    fn add(&mut self, Change { counters, place }: Change<S>, grants: bool) {
        self.exchange(counters, place).grants |= grants;
    }

    fn ask(&mut self, Ask { counters, place, request, answer }: Ask<S>) {
        let exchange = self.exchange(counters, place);
        match request {
            Some(request) => {
                exchange.grants = true;
                exchange.requests.push(request);
                exchange.answers.push(answer);
            }
            None => exchange.readers.push(answer),
        }
    }

    fn exchange(&mut self, counters: Arc<S>, place: S::Place) -> &mut Exchange<S> {
        let key = (Arc::as_ptr(&counters).addr(), place.clone());
        let position = *self.positions.entry(key).or_insert(self.exchanges.len());
        if position == self.exchanges.len() {
            let (requests, answers, readers) = (Vec::new(), Vec::new(), Vec::new());
            self.exchanges.push(Exchange { counters, place, requests, answers, readers, grants: false });
        }
        #[expect(clippy::indexing_slicing, reason = "the position is of an exchange that is there")]
        &mut self.exchanges[position]
    }
}
