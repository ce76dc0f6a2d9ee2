//! Generated traces. The same parameters and seed give the same trace.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;

use super::{
    Content, NewEntry, Start, Trace,
    random::{around, by_weight, exponential, zipf},
};
use crate::{hashing::mix, router::Time};

/// Tenants with their own system prompts, and questions.
#[derive(Clone, Debug)]
pub struct SharedPrompts {
    pub prefixes: usize,
    /// Exponent of the Zipf distribution over the prefixes. Zero: all are equally likely.
    pub skew: f64,
    pub prefix_tokens: u32,
    pub question_tokens: u32,
    /// Different questions per prefix. `None`: every question is new.
    pub questions_per_prefix: Option<usize>,
    pub output_tokens: u32,
    /// All sizes are exact instead of spread around these means.
    pub exact_sizes: bool,
    pub requests: usize,
    pub requests_per_s: f64,
}

impl Default for SharedPrompts {
    /// The sizes of [`SharedPrompts::published`], spread; the skew and new questions are assumptions.
    fn default() -> Self {
        Self { skew: 1.0, questions_per_prefix: None, exact_sizes: false, ..Self::published(10_000, 18.0) }
    }
}

impl SharedPrompts {
    /// The workload of llm-d's benchmarks with Qwen3-32B: `inference-perf`, `shared_prefix` with 150 groups of 5 prompts,
    /// `system_prompt_len` 6000, `question_len` 1200, `output_len` 1000, `ignore_eos`.
    pub fn published(requests: usize, requests_per_s: f64) -> Self {
        Self {
            prefixes: 150,
            skew: 0.0,
            prefix_tokens: 6_000,
            question_tokens: 1_200,
            questions_per_prefix: Some(5),
            output_tokens: 1_000,
            exact_sizes: true,
            requests,
            requests_per_s,
        }
    }

    pub fn generate(&self, seed: u64) -> Trace {
        let mut writer = Writer::new("shared-prompts", seed);
        writer.exact_sizes = self.exact_sizes;
        let weights = zipf(self.prefixes, self.skew);
        let prefixes: Vec<_> = (0..self.prefixes)
            .map(|_| {
                let tokens = writer.size(self.prefix_tokens);
                writer.fresh(Content::default(), tokens)
            })
            .collect();
        let question = |writer: &mut Writer, prefix: &Content| {
            let tokens = writer.size(self.question_tokens);
            writer.fresh(prefix.clone(), tokens)
        };
        let repeated: Vec<Vec<Content>> = prefixes
            .iter()
            .map(|prefix| {
                let count = self.questions_per_prefix.unwrap_or_default();
                (0..count).map(|_| question(&mut writer, prefix)).collect()
            })
            .collect();
        let mut at = Time::ZERO;
        for _ in 0..self.requests {
            at = at + exponential(&mut writer.rng, 1.0 / self.requests_per_s);
            let group = by_weight(&mut writer.rng, &weights);
            let content = match repeated[group].len() {
                0 => question(&mut writer, &prefixes[group]),
                count => repeated[group][writer.rng.usize(..count)].clone(),
            };
            writer.single(at, &content, self.output_tokens);
        }
        writer.finish()
    }
}

/// Agents: each turn sends the whole conversation, the engine's last answer, and the result of a tool.
#[derive(Clone, Debug)]
pub struct Agents {
    pub sessions: usize,
    pub sessions_per_s: f64,
    /// Agent programs. Their sessions share the system prompt and tool descriptions.
    pub programs: usize,
    pub system_tokens: u32,
    pub task_tokens: u32,
    pub turns: u32,
    pub tool_result_tokens: u32,
    pub output_tokens: u32,
    /// Mean time that a tool takes.
    pub pause: Duration,
}

impl Default for Agents {
    /// Sizes of coding agents. Assumptions; no published source.
    fn default() -> Self {
        Self {
            sessions: 400,
            sessions_per_s: 0.5,
            programs: 4,
            system_tokens: 6_000,
            task_tokens: 1_500,
            turns: 15,
            tool_result_tokens: 1_200,
            output_tokens: 250,
            pause: Duration::from_secs(4),
        }
    }
}

impl Agents {
    pub fn generate(&self, seed: u64) -> Trace {
        let mut writer = Writer::new("agents", seed);
        let systems: Vec<_> =
            (0..self.programs).map(|_| writer.fresh(Content::default(), self.system_tokens)).collect();
        let mut at = Time::ZERO;
        for session in 0..self.sessions {
            at = at + exponential(&mut writer.rng, 1.0 / self.sessions_per_s);
            let system = systems[writer.rng.usize(..systems.len())].clone();
            let task_tokens = writer.size(self.task_tokens);
            let content = writer.fresh(system, task_tokens);
            let turns = writer.size(self.turns);
            let more = Turns {
                turns,
                tokens: self.tool_result_tokens,
                output: self.output_tokens,
                pause: self.pause,
            };
            writer.session(session as u64, at, content, &more);
        }
        writer.finish()
    }
}

/// Code generation over large repositories: 70k tokens in, 800 out on average (llm-d's `code-generation` workload).
#[derive(Clone, Debug)]
pub struct CodeGeneration {
    pub sessions: usize,
    pub sessions_per_s: f64,
    /// Repositories, each the shared context of some sessions.
    pub repositories: usize,
    pub repository_tokens: u32,
    pub turns: u32,
    pub question_tokens: u32,
    pub output_tokens: u32,
    pub pause: Duration,
}

impl Default for CodeGeneration {
    /// The sharing and the pauses are assumptions.
    fn default() -> Self {
        Self {
            sessions: 200,
            sessions_per_s: 0.1,
            repositories: 20,
            repository_tokens: 65_000,
            turns: 4,
            question_tokens: 2_000,
            output_tokens: 800,
            pause: Duration::from_secs(20),
        }
    }
}

impl CodeGeneration {
    pub fn generate(&self, seed: u64) -> Trace {
        let mut writer = Writer::new("code-generation", seed);
        let repositories: Vec<_> = (0..self.repositories)
            .map(|_| writer.fresh(Content::default(), self.repository_tokens))
            .collect();
        let mut at = Time::ZERO;
        for session in 0..self.sessions {
            at = at + exponential(&mut writer.rng, 1.0 / self.sessions_per_s);
            let repository = repositories[writer.rng.usize(..repositories.len())].clone();
            let question_tokens = writer.size(self.question_tokens);
            let content = writer.fresh(repository, question_tokens);
            let more = Turns {
                turns: writer.size(self.turns),
                tokens: self.question_tokens,
                output: self.output_tokens,
                pause: self.pause,
            };
            writer.session(session as u64, at, content, &more);
        }
        writer.finish()
    }
}

/// Reasoning: 1k tokens in, 8k out on average (llm-d's `reasoning` workload). No shared prefixes.
#[derive(Clone, Debug)]
pub struct Reasoning {
    pub requests: usize,
    pub requests_per_s: f64,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
}

impl Default for Reasoning {
    fn default() -> Self {
        Self { requests: 2_000, requests_per_s: 0.85, prompt_tokens: 1_000, output_tokens: 8_000 }
    }
}

impl Reasoning {
    pub fn generate(&self, seed: u64) -> Trace {
        let mut writer = Writer::new("reasoning", seed);
        let mut at = Time::ZERO;
        for _ in 0..self.requests {
            at = at + exponential(&mut writer.rng, 1.0 / self.requests_per_s);
            let tokens = writer.size(self.prompt_tokens);
            let content = writer.fresh(Content::default(), tokens);
            writer.single(at, &content, self.output_tokens);
        }
        writer.finish()
    }
}

/// [`SharedPrompts`] as a background, and bursts of requests with one new prefix each.
#[derive(Clone, Debug)]
pub struct Bursts {
    pub background: SharedPrompts,
    pub every: Duration,
    pub requests: usize,
    /// Time in which the requests of a burst arrive.
    pub spread: Duration,
}

impl Default for Bursts {
    fn default() -> Self {
        Self {
            background: SharedPrompts::default(),
            every: Duration::from_secs(20),
            requests: 64,
            spread: Duration::from_millis(100),
        }
    }
}

impl Bursts {
    pub fn generate(&self, seed: u64) -> Trace {
        let background = self.background.generate(seed);
        let end = background.last_start();
        let mut writer = Writer::new("bursts", mix(seed, 1));
        writer.trace.entries = background.entries;
        let mut at = Time::ZERO + self.every;
        while at < end {
            let prefix = writer.fresh(Content::default(), self.background.prefix_tokens);
            for _ in 0..self.requests {
                let start = at + self.spread.mul_f64(writer.rng.f64());
                let tokens = writer.size(self.background.question_tokens);
                let content = writer.fresh(prefix.clone(), tokens);
                writer.single(start, &content, self.background.output_tokens);
            }
            at = at + self.every;
        }
        writer.finish()
    }
}

/// Later turns of a session.
struct Turns {
    turns: u32,
    /// New input per turn.
    tokens: u32,
    output: u32,
    pause: Duration,
}

struct Writer {
    trace: Trace,
    rng: Rng,
    next_piece: u64,
    exact_sizes: bool,
}

impl Writer {
    fn new(name: &str, seed: u64) -> Self {
        let next_piece = mix(seed, name.len() as u64);
        let trace = Trace { name: name.to_owned(), entries: Vec::new() };
        Self { trace, rng: Rng::with_seed(seed), next_piece, exact_sizes: false }
    }

    /// Appends text that occurs nowhere else.
    fn fresh(&mut self, mut content: Content, tokens: u32) -> Content {
        self.next_piece = self.next_piece.wrapping_add(1);
        content.append(self.next_piece, tokens);
        content
    }

    fn size(&mut self, mean: u32) -> u32 {
        if self.exact_sizes { mean } else { around(&mut self.rng, mean) }
    }

    fn single(&mut self, at: Time, content: &Content, output: u32) {
        let output_tokens = self.size(output);
        self.trace.push(NewEntry {
            start: Start::At(at),
            session: None,
            prompt: content.prompt(),
            prompt_tokens: content.tokens(),
            output_tokens,
            max_tokens: output.saturating_mul(4),
            reply: Arc::default(),
        });
    }

    fn session(&mut self, session: u64, at: Time, mut content: Content, more: &Turns) {
        let mut start = Start::At(at);
        for _ in 0..more.turns {
            let (prompt, prompt_tokens) = (content.prompt(), content.tokens());
            let output_tokens = self.size(more.output);
            content = self.fresh(content, output_tokens);
            let previous = self.trace.push(NewEntry {
                start,
                session: Some(session),
                prompt,
                prompt_tokens,
                output_tokens,
                max_tokens: more.output.saturating_mul(4),
                reply: content.full_units_after(prompt_tokens),
            });
            let pause = exponential(&mut self.rng, more.pause.as_secs_f64());
            start = Start::After { previous, pause };
            let tokens = self.size(more.tokens);
            content = self.fresh(content, tokens);
        }
    }

    /// Later entries may arrive earlier; the run sorts by time.
    fn finish(self) -> Trace {
        self.trace
    }
}
