//! The page of `forebay dashboard` in Chromium.

use std::{path::PathBuf, time::Instant};

use forebay_test_browser::{Browser, is_installed};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, BUSY},
    dashboard::{gateway, start},
    site::{Dashboard, eventually},
};

/// The row of a pod, and a cell of it: 1 is in flight.
const HELPERS: &str = "
    globalThis.row = (pod) =>
        [...document.querySelectorAll('#fleet tr.pod')].find((row) => row.cells[0].textContent === pod);
    globalThis.cell = (pod, index) => row(pod)?.cells[index].textContent;
    true";

async fn open(dashboard: &Dashboard) -> Browser {
    open_with(dashboard, 2).await
}

/// The page, when it shows this many pods.
async fn open_with(dashboard: &Dashboard, pods: usize) -> Browser {
    let mut browser = Browser::start().await;
    let size = json!({ "width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": false });
    browser.call("Emulation.setDeviceMetricsOverride", size).await;
    let started = Instant::now();
    browser.call("Page.navigate", json!({ "url": dashboard.url })).await;
    browser.wait(&format!("document.querySelectorAll('#fleet tr.pod').length === {pods}")).await;
    println!("the page shows {pods} pods after {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    browser.evaluate(HELPERS).await;
    browser
}

fn screenshot(name: &str) -> PathBuf {
    let target = option_env!("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target")), PathBuf::from);
    target.join("dashboard").join(name)
}

/// Interactive elements without a name, and how many have one.
async fn unnamed(browser: &mut Browser) -> (Vec<Value>, usize) {
    const INTERACTIVE: [&str; 8] =
        ["button", "textbox", "searchbox", "combobox", "spinbutton", "link", "DisclosureTriangle", "region"];
    let tree = browser.call("Accessibility.getFullAXTree", json!({})).await;
    let nodes = tree["nodes"].as_array().unwrap();
    let of_interest = nodes.iter().filter(|node| {
        node["ignored"] == false
            && node["role"]["value"].as_str().is_some_and(|role| INTERACTIVE.contains(&role))
    });
    let (named, unnamed): (Vec<&Value>, Vec<&Value>) = of_interest
        .partition(|node| node["name"]["value"].as_str().is_some_and(|name| !name.trim().is_empty()));
    (unnamed.into_iter().cloned().collect(), named.len())
}

/// Ends the browser. The page had no error, and made requests to its own server only.
async fn end(browser: Browser, dashboard: &Dashboard) {
    assert_eq!(browser.problems(), [""; 0]);
    let own = format!("http://{}/", dashboard.address);
    let urls: Vec<&str> =
        browser.of("Network.requestWillBeSent").filter_map(|it| it["request"]["url"].as_str()).collect();
    assert!(urls.len() > 5 && urls.iter().all(|url| url.starts_with(&own)), "{urls:?}");
    assert!(urls.iter().all(|url| !url.contains(&dashboard.token)), "{urls:?}");
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_live_and_usable_by_keyboard() {
    if !is_installed() {
        return;
    }
    let agent = Agent::start().await;
    let dashboard = start(&agent, &[]).await;
    let mut browser = open(&dashboard).await;
    browser.wait("document.getElementById('status').textContent === 'live'").await;
    eventually("7 in flight, not old", async || {
        agent.measure(BUSY, "zealous", 7);
        (browser.evaluate("cell('zealous', 1)").await == "7").then_some(())
    })
    .await;
    assert_eq!(browser.evaluate("[cell('idle', 12), cell('idle', 3)]").await, json!(["-", "-"]));
    let changed = Instant::now();
    agent.measure(BUSY, "zealous", 11);
    browser.wait("cell('zealous', 1) === '11'").await;
    println!("a change is shown after {:.0} ms", changed.elapsed().as_secs_f64() * 1e3);

    browser.press("/").await;
    browser.wait("document.activeElement.id === 'filter'").await;
    browser.write("ZEAL").await;
    browser.wait("row('zealous') && !row('idle')").await;
    browser.press("Escape").await;
    browser.wait("row('idle') !== undefined").await;

    browser.evaluate("row('idle').querySelector('button').focus()").await;
    browser.press("ArrowDown").await;
    browser.wait("document.activeElement.closest('tr') === row('zealous')").await;
    assert_ne!(browser.evaluate("getComputedStyle(document.activeElement).outlineStyle").await, "none");
    for (key, is_open) in [("Enter", true), (" ", false), (" ", true)] {
        browser.press(key).await;
        browser.wait(&format!("(row('zealous').nextSibling?.className === 'detail') === {is_open}")).await;
        browser.wait(&format!("document.activeElement.getAttribute('aria-expanded') === '{is_open}'")).await;
    }
    browser.wait("row('zealous').nextSibling.textContent.includes('NVIDIA H100')").await;
    browser.wait("row('zealous').nextSibling.textContent.includes('90 ms')").await;
    browser.wait("row('zealous').nextSibling.textContent.includes('TTFT: 40 ms 90 ms')").await;
    let bars = "row('zealous').nextSibling.querySelector('svg.bars path').getAttribute('d')";
    assert_eq!(browser.evaluate(bars).await, "M0 18v-18.0h.9V18M1 18v-9.0h.9V18");
    assert_eq!(
        browser.evaluate("document.activeElement.closest('tr') === row('zealous')").await,
        true,
        "updates keep the focus"
    );

    eventually("a reader of ended requests", async || agent.end_request(418).then_some(())).await;
    browser.wait("document.querySelector('#requests tbody tr')?.cells[2].textContent === '418'").await;

    let (unnamed, named) = unnamed(&mut browser).await;
    assert!(unnamed.is_empty() && named >= 10, "{named}, {unnamed:#?}");
    for (scheme, width) in [("light", 1400), ("dark", 1400), ("light", 360), ("dark", 360)] {
        browser.screenshot(scheme, width, &screenshot(&format!("{scheme}-{width}.png"))).await;
        let fits = browser.evaluate("document.documentElement.scrollWidth <= innerWidth").await;
        assert_eq!(fits, true, "{width} pixels");
        let table = "document.getElementById('fleet').offsetWidth <= document.querySelector('main .scroll').clientWidth";
        assert_eq!(browser.evaluate(table).await, true, "the columns that are shown fit into {width} pixels");
    }
    let background = "getComputedStyle(document.body).backgroundColor";
    assert_eq!(browser.evaluate(background).await, "rgb(14, 18, 23)", "the colours of the dark scheme");
    end(browser, &dashboard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_what_it_does_not_know() {
    if !is_installed() {
        return;
    }
    let mut agent = Agent::start().await;
    let dashboard = start(&agent, &[]).await;
    let mut browser = open(&dashboard).await;
    agent.stop().await;
    browser.wait("document.getElementById('notices').textContent.includes(' lost ')").await;
    browser.wait("row('zealous').cells[1].textContent === '7*'").await;
    assert_eq!(browser.evaluate("row('zealous').cells[1].classList.contains('stale')").await, true);
    assert_eq!(browser.evaluate("row('zealous').querySelector('.level').className").await, "level unknown");
    assert_eq!(browser.problems(), [""; 0]);
    assert_eq!(dashboard.end("INT").await.0, Some(0));
    browser.wait("document.getElementById('status').textContent.includes('not live')").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_is_answered_and_its_decision_explained() {
    if !is_installed() {
        return;
    }
    let agent = Agent::start().await;
    let (address, _serving) = gateway(|_| {
        let explanation = json!({
            "model": "qwen", "servedBy": "10.0.0.1:8000", "rule": "llm-d/qwen rule 0", "pickMicroseconds": 9,
            "decision": {
                "promptBytes": 2048,
                "scorers": [{ "name": "queue-scorer", "weight": 2.0 }],
                "endpoints": [
                    { "address": "10.0.0.1:8000", "pod": "llm-d/zealous", "total": 1.25, "scores": [0.625], "cachedBytes": 512 },
                    { "address": "10.0.0.2:8000", "pod": "llm-d/idle", "excludedBy": "<b>stalled</b>" },
                ],
            },
        });
        let content = ["<img src=x onerror=alert(1)>", " and more"]
            .map(|text| format!("data: {}\n\n", json!({ "choices": [{ "delta": { "content": text } }] })))
            .concat();
        let usage = json!({
            "choices": [],
            "usage": { "prompt_tokens": 500, "completion_tokens": 7, "prompt_tokens_details": { "cached_tokens": 120 } },
        });
        let content = format!("{content}data: {usage}\n\ndata: [DONE]\n\n");
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-forebay-explanation: {explanation}\r\ncontent-length: \
             {}\r\n\r\n{content}",
            content.len()
        )
    })
    .await;
    let dashboard = start(&agent, &["--gateway", &address]).await;
    let mut browser = open(&dashboard).await;
    browser.wait("document.getElementById('model').value === 'qwen'").await;
    for (field, text) in [("key", "sk-private"), ("prompt", "Why?")] {
        browser.evaluate(&format!("document.getElementById('{field}').focus()")).await;
        browser.write(text).await;
    }
    browser.evaluate("document.getElementById('send').focus()").await;
    browser.press("Enter").await;
    browser.wait("document.getElementById('sent').textContent.includes('7 tokens')").await;
    // Text, not markup.
    let answer = browser.evaluate("document.getElementById('answer').textContent").await;
    assert_eq!(answer, "<img src=x onerror=alert(1)> and more");
    let decision = browser.evaluate("document.querySelector('#decisions details').innerText").await;
    let decision = decision.as_str().unwrap();
    for part in [
        "qwen → 10.0.0.1:8000 (200)",
        "llm-d/qwen rule 0",
        "queue-scorer ×2",
        "0.625",
        "1.25",
        "512 of 2048 B",
        "120 of 500 tokens",
        "<b>stalled</b>",
        "9 µs",
    ] {
        assert!(decision.contains(part), "{part}: {decision}");
    }
    let chosen =
        browser.evaluate("document.querySelector('#decisions tr.chosen').cells[1].textContent").await;
    assert_eq!(chosen, "llm-d/zealous");
    let stored = "JSON.stringify([localStorage.length, sessionStorage.length, document.cookie])";
    assert_eq!(browser.evaluate(stored).await, "[0,0,\"\"]");
    assert_eq!(browser.evaluate("document.documentElement.outerHTML.includes('sk-private')").await, false);
    let (unnamed, named) = unnamed(&mut browser).await;
    assert!(unnamed.is_empty() && named >= 16, "{named}, {unnamed:#?}");
    browser.screenshot("light", 1400, &screenshot("prompt.png")).await;
    end(browser, &dashboard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_pods_are_shown_and_updated() {
    if !is_installed() {
        return;
    }
    let agent = Agent::with_pods(1_000).await;
    let dashboard = start(&agent, &[]).await;
    let mut browser = open_with(&dashboard, 1_000).await;
    println!("the document has {} bytes", dashboard.fleet().await.to_string().len());
    let changed = Instant::now();
    agent.measure("10.1.0.7:8000", "qwen-0007", 4_321);
    browser.wait("cell('qwen-0007', 1) === '4321'").await;
    println!("a change is shown after {:.0} ms", changed.elapsed().as_secs_f64() * 1e3);
    let filtering = "(() => {
        const filter = document.getElementById('filter');
        filter.value = 'qwen-0007';
        const started = performance.now();
        filter.dispatchEvent(new Event('input'));
        return performance.now() - started;
    })()";
    println!("the filter takes {} ms", browser.evaluate(filtering).await);
    assert_eq!(browser.evaluate("document.querySelectorAll('#fleet tr.pod').length").await, 1);
    end(browser, &dashboard).await;
}
