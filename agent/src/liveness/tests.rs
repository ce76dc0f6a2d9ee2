use forebay_telemetry::v1::{Endpoint, EngineLoad, KernelLoad, Latency, Liveness};

use super::{History, pace::SECOND_NS};

/// An endpoint whose time a test moves. Kernel and engine are read at each judgement.
struct Pod {
    history: History,
    now_ns: u64,
    kernel: Option<KernelLoad>,
    engine: Option<EngineLoad>,
    is_scraped: bool,
    gpu_utilization: Option<u32>,
}

const MS: u64 = 1_000_000;

impl Pod {
    /// Scraped, without requests.
    fn new() -> Self {
        Self {
            history: History::new(SECOND_NS),
            now_ns: SECOND_NS,
            kernel: Some(KernelLoad::default()),
            engine: Some(EngineLoad { steps: Some(0), ..EngineLoad::default() }),
            is_scraped: true,
            gpu_utilization: None,
        }
    }

    /// With a pace of 20 ms and a stream that has begun.
    fn streaming() -> Self {
        let mut pod = Self::new();
        pod.start_request();
        let itl = Latency { count: 100, p50_ns: 20 * MS, p95_ns: 40 * MS, ..Latency::default() };
        let kernel = pod.kernel.as_mut().unwrap();
        (kernel.itl, kernel.requests_with_response) = (Some(itl), Some(1));
        pod.send_content();
        assert_eq!(pod.after(0.0), "alive");
        pod
    }

    fn start_request(&mut self) {
        if let Some(kernel) = &mut self.kernel {
            kernel.in_flight = 1;
            kernel.oldest_request_boottime_ns = Some(self.now_ns);
            kernel.requests_with_response = Some(0);
        }
        if let Some(engine) = &mut self.engine {
            engine.running = 1;
        }
    }

    fn end_request(&mut self) {
        self.kernel = Some(KernelLoad {
            last_content_boottime_ns: self.kernel.unwrap().last_content_boottime_ns,
            ..KernelLoad::default()
        });
        self.engine.as_mut().unwrap().running = 0;
    }

    fn send_content(&mut self) {
        self.kernel.as_mut().unwrap().last_content_boottime_ns = Some(self.now_ns);
    }

    fn step(&mut self) {
        let steps = &mut self.engine.as_mut().unwrap().steps;
        *steps = steps.map(|steps| steps + 1);
    }

    /// The verdict after so many seconds.
    fn after(&mut self, seconds: f64) -> String {
        self.now_ns += (seconds * SECOND_NS as f64) as u64;
        let measured_boottime_ns = self.now_ns;
        let endpoint = Endpoint {
            kernel: self.kernel.map(|kernel| KernelLoad { measured_boottime_ns, ..kernel }),
            engine: self
                .engine
                .clone()
                .filter(|_| self.is_scraped)
                .map(|engine| EngineLoad { measured_boottime_ns, ..engine }),
            engine_off: (!self.is_scraped).then(|| "/metrics took longer than 500ms".into()),
            ..Endpoint::default()
        };
        let text = |it: Liveness| match it.reason_name() {
            Some(reason) => format!("{} {reason}", it.state_name().unwrap()),
            None => it.state_name().unwrap().to_owned(),
        };
        self.history
            .judge(&endpoint, self.gpu_utilization, self.now_ns)
            .map_or_else(|| "unknown".into(), text)
    }
}

#[test]
fn begun_responses_that_are_silent_beyond_the_pace_are_a_stall_until_content_flows() {
    let mut pod = Pod::streaming();
    pod.is_scraped = false;
    assert_eq!(pod.after(1.9), "alive");
    assert_eq!(pod.after(0.2), "stalled responses_silent");
    pod.send_content();
    assert_eq!(pod.after(0.1), "alive");
}

#[test]
fn the_pace_of_a_slow_engine_is_its_own() {
    let mut pod = Pod::streaming();
    pod.kernel.as_mut().unwrap().itl.as_mut().unwrap().p50_ns = 300 * MS;
    assert_eq!(pod.after(8.0), "alive");
    assert_eq!(pod.after(1.1), "stalled responses_silent");
    let mut unknown = Pod::streaming();
    unknown.history = History::new(unknown.now_ns);
    unknown.kernel.as_mut().unwrap().itl = None;
    assert_eq!(unknown.after(4.0), "alive");
}

#[test]
fn a_silent_stream_of_an_engine_that_works_is_no_stall() {
    let mut pod = Pod::streaming();
    for _ in 0..20 {
        pod.step();
        assert_eq!(pod.after(1.5), "alive", "a parser of tool calls holds content back");
    }
    pod.engine.as_mut().unwrap().running = 0;
    assert_eq!(pod.after(3.0), "suspect responses_silent", "the reader of the stream may be slow");
}

#[test]
fn waiting_requests_without_progress_are_suspect_and_the_counters_decide() {
    let mut pod = Pod::new();
    pod.start_request();
    assert_eq!(pod.after(4.9), "alive");
    assert_eq!(pod.after(0.2), "suspect no_progress");
    assert_eq!(pod.after(50.0), "suspect no_progress");
    assert_eq!(pod.after(5.0), "stalled no_progress", "no step for a minute");
    pod.step();
    assert_eq!(pod.after(0.1), "alive");

    let mut long_prefill = Pod::new();
    long_prefill.start_request();
    for _ in 0..60 {
        long_prefill.step();
        assert_eq!(long_prefill.after(2.0), "alive");
    }
}

#[test]
fn idle_gpus_of_waiting_requests_are_a_stall() {
    for (utilization, verdict) in
        [(Some(0), "stalled no_progress"), (Some(100), "suspect no_progress"), (None, "suspect no_progress")]
    {
        let mut pod = Pod::new();
        pod.gpu_utilization = utilization;
        pod.start_request();
        assert_eq!(pod.after(9.0), "suspect no_progress");
        assert_eq!(pod.after(2.0), verdict, "{utilization:?}");
    }
}

#[test]
fn a_request_that_the_engine_does_not_report_may_still_be_on_its_way() {
    let mut pod = Pod::new();
    pod.start_request();
    pod.engine.as_mut().unwrap().running = 0;
    assert_eq!(pod.after(29.0), "alive");
    assert_eq!(pod.after(2.0), "suspect no_progress");
}

#[test]
fn an_engine_that_no_longer_answers_scrapes_is_suspect() {
    let mut pod = Pod::new();
    assert_eq!(pod.after(0.0), "alive");
    pod.is_scraped = false;
    assert_eq!(pod.after(2.9), "alive", "a saturated server misses some");
    assert_eq!(pod.after(0.2), "suspect scrapes_fail");
    pod.send_content();
    assert_eq!(pod.after(0.1), "alive");
    pod.is_scraped = true;
    assert_eq!(pod.after(60.0), "alive");
}

#[test]
fn an_engine_that_was_never_scraped_is_suspect_until_it_responds() {
    let mut pod = Pod::new();
    pod.is_scraped = false;
    assert_eq!(pod.after(0.0), "suspect not_scraped");
    pod.send_content();
    assert_eq!(pod.after(1.0), "alive", "another engine, which has other metrics");
    assert_eq!(pod.after(20.0), "unknown");
    let mut nothing_tells = Pod::new();
    (nothing_tells.engine, nothing_tells.kernel) = (None, None);
    assert_eq!(nothing_tells.after(60.0), "unknown");
}

#[test]
fn works_without_the_kernel() {
    let mut pod = Pod::new();
    pod.kernel = None;
    assert_eq!(pod.after(60.0), "alive");
    pod.start_request();
    assert_eq!(pod.after(0.1), "alive");
    assert_eq!(pod.after(5.1), "suspect no_progress");
    pod.step();
    assert_eq!(pod.after(0.1), "alive");
}

#[test]
fn a_doubt_outlives_the_requests_and_is_tried_again_ever_less_often() {
    let mut pod = Pod::new();
    for pause in [60.0, 120.0, 240.0] {
        pod.start_request();
        pod.after(0.0);
        assert_eq!(pod.after(5.1), "suspect no_progress");
        pod.end_request();
        assert_eq!(pod.after(pause - 1.0), "suspect no_progress");
        assert_eq!(pod.after(1.1), "alive");
    }
    pod.start_request();
    pod.step();
    assert_eq!(pod.after(5.1), "alive");
    pod.end_request();
    assert_eq!(pod.after(1.0), "alive");
}

#[test]
fn an_engine_that_sleeps_gets_nothing_until_it_wakes_up() {
    let mut pod = Pod::new();
    pod.engine.as_mut().unwrap().sleeping = Some(true);
    assert_eq!(pod.after(0.1), "stalled asleep");
    pod.engine.as_mut().unwrap().sleeping = Some(false);
    assert_eq!(pod.after(0.1), "alive");
}
