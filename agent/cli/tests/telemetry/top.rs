//! `forebay top` in real terminals of two sizes, against a real telemetry service.

use std::{fs, path::Path};

use crate::{agent::Agent, program::forebay};
use forebay_test_terminal::{Tmux, is_installed};
use tokio::task::spawn_blocking;

const SIZES: [(u16, u16); 2] = [(80, 24), (160, 50)];

/// Writes its process id to `pid`, and prints its exit code on the screen of the shell.
fn run(tmux: &Tmux, pid: &Path, arguments: &str) {
    let forebay = env!("CARGO_BIN_EXE_forebay");
    let pid = pid.display();
    tmux.command(&format!("sh -c 'echo $$ > {pid}; exec {forebay} {arguments}'; echo code=$?"));
}

/// The position of each pod's line.
fn positions(screen: &str) -> [Option<usize>; 2] {
    ["idle", "zealous"].map(|pod| screen.lines().position(|line| line.starts_with(pod)))
}

fn has_exited(tmux: &Tmux, code: u8) {
    tmux.wait_for("the end of the program", |screen| screen.contains(&format!("\ncode={code}")));
    tmux.is_restored();
}

/// Runs a test that blocks, while the service of an agent runs.
async fn with_agent(test: impl Fn(&Tmux, &str, &Path) + Clone + Send + 'static) {
    if !is_installed() {
        return;
    }
    let agent = Agent::start().await;
    for (width, height) in SIZES {
        let (address, test) = (agent.address.to_string(), test.clone());
        spawn_blocking(move || {
            let folder = tempfile::tempdir().unwrap();
            test(&Tmux::start(width, height), &address, folder.path());
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_sorts_filters_drills_down_and_quits() {
    with_agent(|tmux, address, folder| {
        run(tmux, &folder.join("pid"), &format!("top --agents {address}"));
        let screen = tmux.wait_for("both pods", |screen| positions(screen).iter().all(Option::is_some));
        assert!(positions(&screen).is_sorted(), "by name: {screen}");
        assert!(screen.contains("2 pods, 1 GPU, 8 in flight") && screen.contains("90ms"), "{screen}");
        tmux.write("I");
        tmux.wait_for("the order by load", |screen| {
            screen.contains("sort IN-FLIGHT desc") && !positions(screen).is_sorted()
        });
        tmux.write("g");
        tmux.wait_for("groups", |screen| screen.contains("qwen: 2 pods, 8 in flight"));
        tmux.write("/ZEAL");
        tmux.wait_for("the filter", |screen| {
            screen.contains("filter: ZEAL_")
                && positions(screen)[0].is_none()
                && positions(screen)[1].is_some()
        });
        tmux.press("Enter");
        tmux.wait_for("the keys", |screen| screen.contains("q quit"));
        tmux.press("Enter");
        tmux.wait_for("the pod", |screen| {
            screen.contains("pod llm-d/zealous") && screen.contains("TTFT: 9 in a minute")
        });
        tmux.press("Enter");
        tmux.wait_for("the GPU", |screen| screen.contains("GPU 0 of node-1") && screen.contains("87%"));
        tmux.write("?");
        tmux.wait_for("the help", |screen| screen.contains("columns, with the key"));
        // One at a time: two escape bytes at once are one key.
        for (what, text) in
            [("the GPU", "GPU 0 of node-1"), ("the pod", "pod llm-d/zealous"), ("the table", "/ZEAL")]
        {
            tmux.press("Escape");
            tmux.wait_for(what, |screen| screen.contains(text) && !screen.contains("columns, with the key"));
        }
        tmux.wait_for("the table", |screen| positions(screen)[1].is_some());
        tmux.press("Escape");
        tmux.wait_for("all pods", |screen| positions(screen).iter().all(Option::is_some));
        tmux.write("q");
        has_exited(tmux, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_the_terminal_after_signals() {
    with_agent(|tmux, address, folder| {
        for signal in [None, Some("INT"), Some("TERM"), Some("HUP")] {
            let pid = folder.join("pid");
            run(tmux, &pid, &format!("top --agents {address}"));
            tmux.wait_for("both pods", |screen| positions(screen).iter().all(Option::is_some));
            match signal {
                None => tmux.press("C-c"),
                Some(signal) => {
                    let pid = fs::read_to_string(&pid).unwrap();
                    let status = std::process::Command::new("kill").args(["-s", signal, pid.trim()]).status();
                    assert!(status.unwrap().success());
                }
            }
            has_exited(tmux, 0);
            tmux.command("clear");
            tmux.wait_for("an empty screen", |screen| !screen.contains("code="));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_lost_agent_stay_with_the_reason() {
    if !is_installed() {
        return;
    }
    let mut agent = Agent::start().await;
    let address = agent.address.to_string();
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let tmux = spawn_blocking(move || {
        let tmux = Tmux::start(80, 24);
        run(&tmux, &pid, &format!("top --agents {address}"));
        tmux.wait_for("both pods", |screen| positions(screen).iter().all(Option::is_some));
        tmux
    })
    .await
    .unwrap();
    agent.stop().await;
    let address = agent.address;
    spawn_blocking(move || {
        let lost = format!("agent {address} lost ");
        tmux.wait_for("the lost agent", |screen| {
            screen.contains(&lost)
                && positions(screen).iter().all(Option::is_some)
                && screen.contains("unknown")
        });
        tmux.press("C-c");
        has_exited(&tmux, 0);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_the_error_names_another_command() {
    let (code, _, error) = forebay(&["top", "--agents", "127.0.0.1:1"]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("needs a terminal") && error.contains("forebay pods"), "{error}");
}

/// Without ages: they are of another time.
fn without_ages(text: &str) -> serde_json::Value {
    fn remove(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(object) => {
                object.remove("ageSeconds");
                object.values_mut().for_each(remove);
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(remove),
            _ => {}
        }
    }
    let mut value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    remove(&mut value);
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_has_the_rows_that_were_recorded() {
    let agent = Agent::start().await;
    let address = agent.address.to_string();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recording");
    let file = path.to_str().unwrap();
    let (code, _, error) = forebay(&["record", file, "--agents", &address, "--for", "1500ms"]).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(error.contains("--for is over"), "{error}");
    let schema: serde_json::Value = serde_json::from_str(&forebay(&["schema"]).await.1).unwrap();
    for (subject, rows) in [("pods", 2), ("gpus", 1), ("nodes", 1)] {
        let live = forebay(&[subject, "-o", "json", "--agents", &address]).await.1;
        let (code, recorded, error) = forebay(&[subject, "-o", "json", "--replay", file]).await;
        assert_eq!((code, error.as_str()), (Some(0), ""));
        assert_eq!(without_ages(&recorded), without_ages(&live));
        let document = serde_json::from_str(&live).unwrap();
        assert!(jsonschema::is_valid(&schema, &document), "{live}");
        assert_eq!(without_ages(&live)["items"].as_array().unwrap().len(), rows);
    }
    let before_all = forebay(&["pods", "-o", "json", "--replay", file, "--at", "0s"]).await.1;
    assert_eq!(
        without_ages(&before_all)["items"].as_array().unwrap().len(),
        0,
        "the stream was not open yet"
    );
    let (code, _, error) = forebay(&["record", file, "--agents", &address]).await;
    assert!(code == Some(1) && error.contains("exists: remove it"), "{error}");
    let (code, _, error) = forebay(&["pods", "--replay", file, "-l", "app=a"]).await;
    assert!(code == Some(1) && error.contains("--selector needs the labels"), "{error}");
    if is_installed() {
        spawn_blocking(move || {
            let tmux = Tmux::start(80, 24);
            run(&tmux, &folder.path().join("pid"), &format!("top --replay {}", path.display()));
            tmux.wait_for("the end", |screen| {
                screen.contains("end  ") && positions(screen).iter().all(Option::is_some)
            });
            tmux.write(" ");
            tmux.press("Left");
            tmux.wait_for("the start", |screen| screen.contains("paused") && screen.contains("0s of 2s"));
            tmux.press("Right");
            tmux.wait_for("the end", |screen| screen.contains("2s of 2s") && screen.contains("7 "));
            tmux.write("q");
            has_exited(&tmux, 0);
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_bounded_and_readable_up_to_a_cut() {
    let agent = Agent::start().await;
    let address = agent.address.to_string();
    let folder = tempfile::tempdir().unwrap();
    let (path, cut) = (folder.path().join("recording"), folder.path().join("cut"));
    let file = path.to_str().unwrap();
    let (code, _, error) = forebay(&["record", file, "--agents", &address, "--max-size", "1KiB"]).await;
    assert!(code == Some(0) && error.contains("--max-size was reached"), "{error}");
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.len() < 1024 + 64, "{}", bytes.len());
    fs::write(&cut, &bytes[..bytes.len() - 50]).unwrap();
    let (code, table, error) = forebay(&["pods", "--replay", cut.to_str().unwrap()]).await;
    assert!(code == Some(0) && table.contains("zealous") && error.contains("was cut off"), "{table} {error}");
    fs::write(&cut, "forebay recording 9\n").unwrap();
    let (code, _, error) = forebay(&["pods", "--replay", cut.to_str().unwrap()]).await;
    assert!(code == Some(1) && error.contains("format version 9") && error.contains("cut"), "{error}");
}
