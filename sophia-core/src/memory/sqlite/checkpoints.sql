-- Made where they are missing, since files of every format were written before they were there.
CREATE TABLE IF NOT EXISTS checkpoint_threads (
  thread INTEGER PRIMARY KEY AUTOINCREMENT,
  wall   INTEGER NOT NULL REFERENCES walls,
  name   TEXT NOT NULL,
  UNIQUE (wall, name)
) STRICT;

-- `channels` is JSON: by name, the version, the encoding, and the number of the value.
CREATE TABLE IF NOT EXISTS checkpoints (
  checkpoint INTEGER PRIMARY KEY AUTOINCREMENT,
  thread     INTEGER NOT NULL REFERENCES checkpoint_threads,
  namespace  TEXT NOT NULL,
  id         TEXT NOT NULL,
  parent     TEXT,
  run        TEXT,
  encoding   TEXT NOT NULL,
  body       BLOB NOT NULL,
  metadata   TEXT NOT NULL,
  channels   TEXT NOT NULL,
  deltas     TEXT,
  created_at INTEGER NOT NULL,
  UNIQUE (thread, namespace, id)
) STRICT;
CREATE INDEX IF NOT EXISTS checkpoints_by_run ON checkpoints (run) WHERE run IS NOT NULL;

-- Values are counted inside their thread, so that a thread is copied and deleted without looking at another.
-- The first byte of packed data says how: 0 as it is, 1 by zstd, 2 a list of the numbers of its runs.
CREATE TABLE IF NOT EXISTS checkpoint_values (
  thread INTEGER NOT NULL REFERENCES checkpoint_threads,
  value  INTEGER NOT NULL,
  hash   BLOB NOT NULL,
  data   BLOB NOT NULL,
  PRIMARY KEY (thread, value)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS checkpoint_values_by_hash ON checkpoint_values (thread, hash);

-- A write may come before its checkpoint.
CREATE TABLE IF NOT EXISTS checkpoint_writes (
  thread    INTEGER NOT NULL REFERENCES checkpoint_threads,
  namespace TEXT NOT NULL,
  id        TEXT NOT NULL,
  task      TEXT NOT NULL,
  idx       INTEGER NOT NULL,
  path      TEXT NOT NULL,
  channel   TEXT NOT NULL,
  encoding  TEXT NOT NULL,
  data      BLOB NOT NULL,
  PRIMARY KEY (thread, namespace, id, task, idx)
) STRICT, WITHOUT ROWID;
