use std::{fs, path::Path, time::Duration};

use super::{load, write};
use crate::{ObjectKey, Snapshot, Store, folder};

const DEADLINE: Duration = Duration::from_secs(10);

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name} }}\ndata: {{ k: {value} }}\n")
}

fn value(snapshot: &Snapshot, name: &str) -> Option<String> {
    let map = snapshot.config_maps.get(&ObjectKey::new("default", name))?;
    map.data.as_ref()?.get("k").cloned()
}

/// Waits until the store's snapshot satisfies `condition`.
async fn until(store: &Store, condition: impl Fn(&Snapshot) -> bool) {
    let mut generations = store.subscribe();
    tokio::time::timeout(DEADLINE, generations.wait_for(|_| condition(&store.snapshot())))
        .await
        .expect("the store did not get there in time")
        .unwrap();
}

#[tokio::test]
async fn reloads_on_add_change_and_delete() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.yaml", &config_map("a", "one"));
    let (store, _provider) = load(folder.path()).await;
    assert_eq!(value(&store.snapshot(), "a").as_deref(), Some("one"));

    write(folder.path(), "a.yaml", &config_map("a", "two"));
    until(&store, |snapshot| value(snapshot, "a").as_deref() == Some("two")).await;
    write(folder.path(), "b.yaml", &config_map("b", "three"));
    until(&store, |snapshot| value(snapshot, "b").is_some()).await;
    fs::remove_file(folder.path().join("a.yaml")).unwrap();
    until(&store, |snapshot| value(snapshot, "a").is_none() && value(snapshot, "b").is_some()).await;
}

#[tokio::test]
async fn reloads_on_rename() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.yaml", &config_map("a", "one"));
    let (store, _provider) = load(folder.path()).await;
    write(folder.path(), ".a.yaml.swp", &config_map("a", "two"));
    fs::rename(folder.path().join(".a.yaml.swp"), folder.path().join("a.yaml")).unwrap();
    until(&store, |snapshot| value(snapshot, "a").as_deref() == Some("two")).await;
}

/// The kubelet updates a mounted ConfigMap by replacing the link `..data` that all files point through.
#[tokio::test]
async fn reloads_on_config_map_symlink_swap() {
    let folder = tempfile::tempdir().unwrap();
    let version = |name: &str, text: &str| {
        fs::create_dir(folder.path().join(name)).unwrap();
        write(&folder.path().join(name), "a.yaml", text);
    };
    let link =
        |target: &str, name: &str| std::os::unix::fs::symlink(target, folder.path().join(name)).unwrap();
    version("..v1", &config_map("a", "one"));
    link("..v1", "..data");
    link("..data/a.yaml", "a.yaml");
    let (store, _provider) = load(folder.path()).await;
    assert_eq!(value(&store.snapshot(), "a").as_deref(), Some("one"));

    version("..v2", &config_map("a", "two"));
    link("..v2", "..data_tmp");
    fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
    until(&store, |snapshot| value(snapshot, "a").as_deref() == Some("two")).await;
}

#[tokio::test]
async fn survives_removal_of_folder() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("resources");
    fs::create_dir(&folder).unwrap();
    write(&folder, "a.yaml", &config_map("a", "one"));
    let (store, _provider) = load(&folder).await;

    fs::rename(&folder, parent.path().join("old")).unwrap();
    fs::create_dir(&folder).unwrap();
    write(&folder, "a.yaml", &config_map("a", "two"));
    fs::remove_dir_all(parent.path().join("old")).unwrap();
    until(&store, |snapshot| value(snapshot, "a").as_deref() == Some("two")).await;
    // The new folder is watched.
    write(&folder, "a.yaml", &config_map("a", "three"));
    until(&store, |snapshot| value(snapshot, "a").as_deref() == Some("three")).await;
}

#[tokio::test]
async fn ignores_rewrite_of_same_content() {
    let folder = tempfile::tempdir().unwrap();
    let replace = |file: &str, text: &str| {
        write(folder.path(), ".new", text);
        fs::rename(folder.path().join(".new"), folder.path().join(file)).unwrap();
    };
    replace("a.yaml", &config_map("a", "one"));
    let (store, _provider) = load(folder.path()).await;
    replace("a.yaml", &config_map("a", "one"));
    replace("notes.txt", "no manifest");
    replace("b.yaml", &config_map("b", "one"));
    until(&store, |snapshot| value(snapshot, "b").is_some()).await;
    assert_eq!(store.snapshot().generation, 2);
}

#[tokio::test]
async fn stops_when_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (store, provider) = load(folder.path()).await;
    let mut generations = store.subscribe();
    drop(provider);
    drop(store);
    // The provider had the only other reference to the store.
    let closed = async { while generations.changed().await.is_ok() {} };
    tokio::time::timeout(DEADLINE, closed).await.expect("the provider's task is still there");
}

#[tokio::test]
async fn fails_with_path_of_missing_folder() {
    let error = folder::start(Path::new("/nowhere/resources"), Store::new()).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/resources"), "{error}");
}

#[tokio::test]
async fn reports_oversized_file_and_keeps_others() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.yaml", &config_map("a", "one"));
    let big = fs::File::create(folder.path().join("big.yaml")).unwrap();
    big.set_len((16 << 20) + 1).unwrap();
    fs::write(folder.path().join("binary.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    let (store, _provider) = load(folder.path()).await;
    let snapshot = store.snapshot();
    assert!(value(&snapshot, "a").is_some());
    let places: Vec<&str> = snapshot.problems.iter().map(|problem| problem.place.as_str()).collect();
    assert_eq!(places, ["big.yaml", "binary.yaml"]);
    assert!(snapshot.problems[0].message.contains("larger than"), "{}", snapshot.problems[0]);
}
