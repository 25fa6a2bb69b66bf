//! Damaged data files: a clear error, nothing touched, and how to get the data back; newer ones, wherever it stands that
//! they are.

use super::*;

/// A folder with records that take many pages.
async fn folder() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let sophia = engine(directory.path()).await;
    let records = (0..300).map(|number| {
        NewRecord::new(format!("record {number} {}", "of some length ".repeat(60)))
            .scope(ada())
            .id(format!("r{number}"))
    });
    sophia.memory().store_many(records.collect(), Atomicity::Together).await.unwrap();
    sophia.shutdown().await.unwrap();
    directory
}

fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, &bytes).unwrap();
    bytes
}

fn says_how_to_restore(error: &sophia_core::Error) {
    assert!(error.message().contains("sophia.db") && error.message().contains("backup"), "{error}");
}

#[tokio::test]
async fn a_damaged_header_is_refused_and_left_as_it_is() {
    let directory = folder().await;
    let path = directory.path().join("sophia.db");
    let whole = std::fs::read(&path).unwrap();
    let damages: [fn(&mut Vec<u8>); 5] = [
        |bytes| bytes[..16].fill(0),
        |bytes| bytes[..100].fill(0xff),
        |bytes| bytes[16..18].fill(0xff),
        |bytes| bytes.truncate(50),
        |bytes| bytes[100..4096].fill(0xa5),
    ];
    for (number, change) in damages.into_iter().enumerate() {
        std::fs::write(&path, &whole).unwrap();
        let damaged = damage(&path, change);
        let sophia = Sophia::new(Config::default().with_data_dir(directory.path())).unwrap();
        let error = sophia.start().await.unwrap_err();
        assert_eq!(
            (error.kind(), error.get("field")),
            (ErrorKind::InvalidConfig, Some("data_dir")),
            "{number} {error}"
        );
        says_how_to_restore(&error);
        assert!(std::fs::read(&path).unwrap() == damaged, "{number}: it was touched");
        // The same engine goes on once the file is put back.
        std::fs::write(&path, &whole).unwrap();
        for left in ["sophia.db-wal", "sophia.db-shm"] {
            assert!(!directory.path().join(left).exists(), "{number}: {left}");
        }
        assert!(sophia.memory().get(GetRecord::id("r7").scope(ada())).await.unwrap().is_some());
        sophia.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn damaged_pages_are_an_error_that_says_how_to_restore_and_what_is_whole_is_read() {
    let directory = folder().await;
    let path = directory.path().join("sophia.db");
    let pages = std::fs::metadata(&path).unwrap().len() / 4096;
    let whole = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for (from, to) in [(pages / 3, pages / 3 + 1), (pages / 4, pages / 2), (pages / 2, pages)] {
        std::fs::write(&path, &whole).unwrap();
        let truncate = to == pages;
        damage(&path, |bytes| match truncate {
            true => bytes.truncate(from as usize * 4096),
            false => bytes[from as usize * 4096..to as usize * 4096].fill(0xa5),
        });
        let sophia = Sophia::new(Config::default().with_data_dir(directory.path())).unwrap();
        let mut errors = Vec::new();
        errors.extend(sophia.start().await.err());
        for number in (0..300).step_by(5) {
            let id = format!("r{number}");
            match sophia.memory().get(GetRecord::id(&id).scope(ada())).await {
                Ok(Some(record)) => assert!(record.content.starts_with(&format!("record {number} of some"))),
                Ok(None) => panic!("{id} is denied"),
                Err(error) => errors.push(error),
            }
        }
        errors.extend(sophia.memory().search(Query::new("record").scope(ada()).limit(300)).await.err());
        errors.extend(sophia.memory().store(NewRecord::new("one more").scope(ada())).await.err());
        errors.extend(sophia.memory().forget(ForgetRequest::subject("ada")).await.err());
        assert!(!errors.is_empty());
        for error in &errors {
            assert!(!error.is_retryable(), "{error}");
            says_how_to_restore(error);
        }
        refused += errors.len();
        sophia.shutdown().await.unwrap();
    }
    assert!(refused > 20, "{refused}");
}

#[tokio::test]
async fn a_format_that_only_the_log_tells_of_is_refused_as_well() {
    let directory = folder().await;
    // A newer build is at work: what it writes is in its log yet.
    let newer = rusqlite::Connection::open(directory.path().join("sophia.db")).unwrap();
    newer.execute_batch("PRAGMA journal_mode = WAL; PRAGMA user_version = 99").unwrap();
    let before = std::fs::read(directory.path().join("sophia.db-wal")).unwrap();
    assert!(!before.is_empty());
    let sophia = Sophia::new(Config::default().with_data_dir(directory.path())).unwrap();
    let error = sophia.start().await.unwrap_err();
    assert_eq!((error.kind(), error.get("found")), (ErrorKind::Unsupported, Some("99")), "{error}");
    assert!(sophia.memory().store(NewRecord::new("x")).await.is_err());
    drop(sophia);
    assert!(std::fs::read(directory.path().join("sophia.db-wal")).unwrap() == before, "it was touched");
    drop(newer);
}
