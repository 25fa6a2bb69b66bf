//! A disk that is full, and one that cannot be written. Both are small file systems in memory, which only root can mount.

use super::*;

/// A file system of a test's own.
struct Disk(tempfile::TempDir);

impl Disk {
    /// Mounts one of so many bytes; says so where it cannot.
    fn mount(bytes: usize) -> Option<Disk> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        if run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path())) {
            return Some(Disk(folder));
        }
        #[expect(clippy::print_stderr, reason = "a check that is left out is said")]
        {
            eprintln!("SKIPPED: no file system can be mounted here; run as root to test full and read-only disks");
        }
        assert!(std::env::var_os("CI").is_none() || !rustix::process::geteuid().is_root(), "root must be able to");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Lets nobody write any more, or again.
    fn remount(&self, how: &str) {
        assert!(run(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(self.path())));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(self.path()));
    }
}

fn run(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}

/// Takes up all the space that is left.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for size in [65_536, 4_096] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_that_loses_nothing_and_passes() {
    let Some(disk) = Disk::mount(8 << 20) else { return };
    let data = disk.path().join("data");
    let sophia = engine(&data).await;
    let memory = sophia.memory();
    let long = |name: &str| NewRecord::new(format!("{name} {}", "is long ".repeat(500))).scope(ada()).id(name);
    let mut kept = Vec::new();
    memory.store(long("first")).await.unwrap();
    memory.kv().set("plan", json!("pro"), KvOptions::new().scope(ada())).await.unwrap();
    fill(&disk.path().join("ballast"));
    let refused = loop {
        let name = format!("r{}", kept.len());
        match memory.store(long(&name)).await {
            Ok(_) => kept.push(name),
            Err(error) => break error,
        }
        assert!(kept.len() < 5_000);
    };
    let is_full = |error: sophia_core::Error| {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains("disk is full") && error.is_retryable(), "{error}");
    };
    is_full(refused);
    // Everything that writes says the same, and many at once do not take each other's room.
    let big = json!("x".repeat(400_000));
    is_full(memory.kv().set("big", big.clone(), KvOptions::new().scope(ada())).await.unwrap_err());
    let noise: String =
        (0..4_000).map(|part| blake3::hash(format!("{part}").as_bytes()).to_hex().to_string()).collect();
    is_full(memory.checkpoints().put(NewCheckpoint::new("t", "1", text(noise)).scope(ada())).await.unwrap_err());
    let many = (0..300).map(|number| long(&format!("m{number}")));
    is_full(memory.store_many(many.collect(), Atomicity::Together).await.unwrap_err());
    // What is there is read, and found.
    for name in kept.iter().map(String::as_str).chain(["first"]) {
        assert!(memory.get(GetRecord::id(name).scope(ada())).await.unwrap().is_some(), "{name}");
    }
    assert!(!memory.search(Query::new("long").scope(ada())).await.unwrap().hits.is_empty());
    assert_eq!(memory.kv().get("plan", &ada()).await.unwrap().unwrap().value(), &json!("pro"));
    assert_eq!(memory.kv().get("big", &ada()).await.unwrap(), None);
    assert_eq!(memory.get(GetRecord::id("m0").scope(ada())).await.unwrap(), None, "none of a batch that failed");

    // With room again it goes on by itself.
    std::fs::remove_file(disk.path().join("ballast")).unwrap();
    memory.store(long("after")).await.unwrap();
    memory.kv().set("big", big, KvOptions::new().scope(ada())).await.unwrap();
    assert_eq!(memory.search(Query::new("after").mode(Mode::Keyword).scope(ada())).await.unwrap().hits.len(), 1);
    sophia.shutdown().await.unwrap();
    assert_eq!(integrity(&data), "ok");
    let sophia = engine(&data).await;
    for name in kept.iter().map(String::as_str).chain(["first", "after"]) {
        let record = sophia.memory().get(GetRecord::id(name).scope(ada())).await.unwrap().expect(name);
        assert_eq!(record.content, format!("{name} {}", "is long ".repeat(500)));
    }
    sophia.shutdown().await.unwrap();
}

#[tokio::test]
async fn where_a_disk_is_full_from_the_beginning_it_is_said_and_passes() {
    let Some(disk) = Disk::mount(1 << 20) else { return };
    fill(&disk.path().join("ballast"));
    let sophia = Sophia::new(Config::default().with_data_dir(disk.path().join("data"))).unwrap();
    let error = sophia.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("disk is full"), "{error}");
    std::fs::remove_file(disk.path().join("ballast")).unwrap();
    sophia.memory().store(NewRecord::new("there is room").scope(ada())).await.unwrap();
    sophia.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_is_named_and_left_as_it_is() {
    let Some(disk) = Disk::mount(8 << 20) else { return };
    let data = disk.path().join("data");
    let sophia = engine(&data).await;
    sophia.memory().store(NewRecord::new("kept").scope(ada()).id("kept")).await.unwrap();
    sophia.shutdown().await.unwrap();
    drop(sophia);
    disk.remount("ro");
    let before: Vec<_> = files(&data).into_iter().map(|file| (std::fs::read(&file).unwrap(), file)).collect();
    for directory in [data.clone(), disk.path().join("new"), disk.path().to_owned()] {
        let sophia = Sophia::new(Config::default().with_data_dir(&directory)).unwrap();
        let error = sophia.start().await.unwrap_err();
        assert_eq!((error.kind(), error.get("field")), (ErrorKind::InvalidConfig, Some("data_dir")), "{error}");
        assert!(error.message().contains(directory.to_str().unwrap()), "{error}");
        // Nothing is taken that would be lost.
        assert!(sophia.memory().store(NewRecord::new("lost")).await.is_err());
        assert!(sophia.memory().kv().set("k", json!(1), KvOptions::new()).await.is_err());
        assert_eq!(sophia.memory().kv().get_now("k", &Scope::new()), None);
        assert_eq!(sophia.memory().health().await.status, TierStatus::Unhealthy);
    }
    let after: Vec<_> = files(&data).into_iter().map(|file| (std::fs::read(&file).unwrap(), file)).collect();
    assert!(before == after);
    disk.remount("rw");
    let sophia = engine(&data).await;
    assert!(sophia.memory().get(GetRecord::id("kept").scope(ada())).await.unwrap().is_some());
    sophia.shutdown().await.unwrap();
}
