//! A mixed load: many clients, all kinds of requests, bounded in number and time.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{Client, Outcome, Shape};

/// Number of requests of each kind, and of clients.
#[derive(Clone, Debug)]
pub struct Mix {
    pub requests: u32,
    pub aborts: u32,
    pub whole: u32,
    pub refused: u32,
    pub long_prompts: u32,
    pub long_prompt_bytes: usize,
    /// Maximum tokens of a stream. Each stream has between half of it and all of it.
    pub tokens: u32,
    pub users: u32,
    pub models: Vec<String>,
    /// Maximum duration of the load.
    pub time_limit: Duration,
}

impl Mix {
    /// The requests in order. Deterministic; kinds are spread evenly.
    fn plan(&self) -> VecDeque<(String, Shape)> {
        let mut plan = VecDeque::with_capacity(self.requests as usize);
        let every = |count: u32, index: u32, phase: u32| {
            count != 0 && (index + phase).is_multiple_of((self.requests / count).max(1))
        };
        let mut left = [self.aborts, self.whole, self.refused, self.long_prompts];
        let mut take = |kind: usize| {
            let some = left[kind] != 0;
            left[kind] = left[kind].saturating_sub(1);
            some
        };
        for index in 0..self.requests {
            let tokens = self.tokens / 2 + index * 7 % (self.tokens / 2).max(1);
            let shape = if every(self.aborts, index, 0) && take(0) {
                // Long enough that the stream does not end before the abort, even if the client is delayed for seconds:
                // near the end, engine and kernel may see the end of the stream and the abort in a different order.
                Shape::Abort { tokens: self.tokens * 32, after_events: 2 + index % 8 }
            } else if every(self.whole, index, 1) && take(1) {
                Shape::Whole { tokens }
            } else if every(self.refused, index, 2) && take(2) {
                Shape::Refused
            } else if every(self.long_prompts, index, 3) && take(3) {
                Shape::LongPrompt { bytes: self.long_prompt_bytes, tokens }
            } else {
                Shape::Stream { tokens }
            };
            let model = self.models[index as usize % self.models.len()].clone();
            plan.push_back((model, shape));
        }
        plan
    }
}

/// Results of a load.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub outcomes: Vec<(Shape, Outcome)>,
    /// Unexpected results, with the reason.
    pub failed: Vec<String>,
}

impl Ledger {
    fn record(&mut self, shape: Shape, result: std::io::Result<Outcome>) {
        match result {
            Ok(outcome) => {
                if let Err(reason) = check(&shape, &outcome) {
                    self.failed.push(format!("{shape:?}: {reason}"));
                }
                self.outcomes.push((shape, outcome));
            }
            Err(error) => self.failed.push(format!("{shape:?}: {error}")),
        }
    }

    /// Number of complete responses.
    pub fn finished(&self) -> usize {
        self.outcomes.iter().filter(|(_, outcome)| !outcome.aborted).count()
    }

    /// Number of requests that the client aborted.
    pub fn aborted(&self) -> usize {
        self.outcomes.iter().filter(|(_, outcome)| outcome.aborted).count()
    }
}

fn check(shape: &Shape, outcome: &Outcome) -> Result<(), String> {
    let expected = if *shape == Shape::Refused { 400 } else { 200 };
    if outcome.status != expected {
        return Err(format!("status {} instead of {expected}: {}", outcome.status, outcome.body));
    }
    match shape {
        Shape::Stream { .. } | Shape::LongPrompt { .. } if !outcome.done => {
            Err("the stream has no [DONE]".into())
        }
        Shape::Abort { .. } if !outcome.aborted => {
            Err("the stream ended before the client could abort it".into())
        }
        _ => Ok(()),
    }
}

/// Runs the load against `address`.
pub async fn run(address: SocketAddr, mix: &Mix) -> Ledger {
    let plan = Arc::new(Mutex::new(mix.plan()));
    let deadline = Instant::now() + mix.time_limit;
    let mut users = JoinSet::new();
    for _ in 0..mix.users {
        let plan = Arc::clone(&plan);
        users.spawn(async move {
            let mut client = Client::new(address);
            let mut ledger = Ledger::default();
            loop {
                let next = plan.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((model, shape)) = next else { return ledger };
                match timeout_at(deadline, client.chat(&model, &shape)).await {
                    Ok(result) => ledger.record(shape, result),
                    Err(_late) => {
                        ledger.failed.push(format!("{shape:?}: not complete within the time limit"));
                        return ledger;
                    }
                }
            }
        });
    }
    let mut total = Ledger::default();
    while let Some(ledger) = users.join_next().await {
        match ledger {
            Ok(ledger) => {
                total.outcomes.extend(ledger.outcomes);
                total.failed.extend(ledger.failed);
            }
            Err(error) => total.failed.push(format!("client task failed: {error}")),
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_contains_the_requested_number_of_each_kind() {
        let mix = Mix {
            requests: 500,
            aborts: 50,
            whole: 20,
            refused: 20,
            long_prompts: 5,
            long_prompt_bytes: 10,
            tokens: 20,
            users: 1,
            models: vec!["m".into()],
            time_limit: Duration::from_secs(1),
        };
        let plan = mix.plan();
        let count = |wanted: fn(&Shape) -> bool| plan.iter().filter(|(_, shape)| wanted(shape)).count();
        assert_eq!(plan.len(), 500);
        assert_eq!(count(|shape| matches!(shape, Shape::Abort { .. })), 50);
        assert_eq!(count(|shape| matches!(shape, Shape::Whole { .. })), 20);
        assert_eq!(count(|shape| matches!(shape, Shape::Refused)), 20);
        assert_eq!(count(|shape| matches!(shape, Shape::LongPrompt { .. })), 5);
    }
}
