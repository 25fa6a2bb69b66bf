//! Four processes: this test starts its own program again, with the part of a child.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use super::*;

const URL: &str = "SOPHIA_TEST_CHILD_URL";
const FOLDER: &str = "SOPHIA_TEST_CHILD_FOLDER";

fn child(url: &str, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shared::processes::a_process_that_asks", "--ignored", "--nocapture"])
        .env(URL, url)
        .env(FOLDER, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// The part of a child; it asks when the file `go` is there, and writes down what it got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the test below"]
async fn a_process_that_asks() {
    let (Some(url), Some(folder)) = (std::env::var_os(URL), std::env::var_os(FOLDER)) else { return };
    let (url, folder) = (url.into_string().unwrap(), std::path::PathBuf::from(folder));
    let sophia = engine(RedisConfig::url(url), None).await;
    let mine = std::process::id();
    fs::write(folder.join(format!("ready-{mine}")), "").unwrap();
    until("the word is given", async || folder.join("go").exists()).await;
    let load = {
        let folder = folder.clone();
        move || async move {
            fs::write(folder.join(format!("made-{mine}")), "").unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(json!(mine))
        }
    };
    let options = KvOptions::new().scope(ada()).ttl(Duration::from_secs(60));
    let value = sophia.memory().kv().get_or_set("report", options, load).await.unwrap();
    fs::write(folder.join(format!("got-{mine}")), value.json()).unwrap();
}

fn count(folder: &Path, start: &str) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(start)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_make_a_value_once() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    let children: Vec<_> = (0..4).map(|_| child(&server.url(), folder)).collect();
    until("all are ready", async || count(folder, "ready-") == 4).await;
    fs::write(folder.join("go"), "").unwrap();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!((count(folder, "made-"), count(folder, "got-")), (1, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_when_the_process_that_makes_a_value_dies() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    let mut child = child(&server.url(), folder);
    until("it is ready", async || count(folder, "ready-") == 1).await;
    fs::write(folder.join("go"), "").unwrap();
    until("it makes the value", async || count(folder, "made-") == 1).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let sophia = engine(RedisConfig::url(server.url()), None).await;
    let options = KvOptions::new().scope(ada());
    let value = sophia.memory().kv().get_or_set("report", options, || async { Ok(json!("ours")) }).await.unwrap();
    assert_eq!(value.value(), &json!("ours"));
}
