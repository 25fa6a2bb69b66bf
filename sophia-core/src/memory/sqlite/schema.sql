-- Format 2. Times are microseconds since 1970, UTC.
-- A wall is one pair of tenant and user; every row belongs to one.
CREATE TABLE walls (
  wall   INTEGER PRIMARY KEY AUTOINCREMENT,
  key    TEXT NOT NULL UNIQUE,
  tenant TEXT,
  user   TEXT
) STRICT;

CREATE TABLE records (
  seq        INTEGER PRIMARY KEY AUTOINCREMENT,
  wall       INTEGER NOT NULL REFERENCES walls,
  id         TEXT NOT NULL,
  version    INTEGER NOT NULL,
  session    TEXT,
  agent      TEXT,
  content    TEXT NOT NULL,
  kind       TEXT NOT NULL,
  category   TEXT,
  tags       TEXT NOT NULL,
  metadata   TEXT NOT NULL,
  summary    TEXT,
  source     TEXT,
  role       TEXT,
  importance REAL NOT NULL,
  priority   TEXT NOT NULL,
  status     TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  expires_at INTEGER,
  hash       BLOB NOT NULL,
  UNIQUE (wall, id)
) STRICT;
CREATE INDEX records_by_session ON records (wall, session, seq);
CREATE INDEX records_by_hash ON records (wall, hash);
CREATE INDEX records_by_expiry ON records (expires_at) WHERE expires_at IS NOT NULL;

-- Former states, as JSON of the record.
CREATE TABLE versions (
  seq     INTEGER NOT NULL,
  version INTEGER NOT NULL,
  body    TEXT NOT NULL,
  PRIMARY KEY (seq, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE models (
  model      INTEGER PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  dimensions INTEGER NOT NULL
) STRICT;

-- Half-precision values of length one, little endian.
CREATE TABLE vectors (
  seq   INTEGER PRIMARY KEY,
  model INTEGER NOT NULL REFERENCES models,
  data  BLOB NOT NULL
) STRICT;

-- What changed, for the vectors that processes hold in memory.
CREATE TABLE changes (
  change INTEGER PRIMARY KEY AUTOINCREMENT,
  wall   INTEGER NOT NULL,
  seq    INTEGER NOT NULL
) STRICT;
CREATE INDEX changes_by_wall ON changes (wall, change);

CREATE TABLE kv (
  wall        INTEGER NOT NULL REFERENCES walls,
  key         TEXT NOT NULL,
  value       TEXT NOT NULL,
  tags        TEXT NOT NULL,
  expires_at  INTEGER,
  stale_until INTEGER,
  PRIMARY KEY (wall, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX kv_by_expiry ON kv (stale_until) WHERE stale_until IS NOT NULL;

CREATE TABLE kv_tags (
  wall INTEGER NOT NULL,
  tag  TEXT NOT NULL,
  key  TEXT NOT NULL,
  PRIMARY KEY (wall, tag, key)
) STRICT, WITHOUT ROWID;

-- What changed, for the values that other processes hold in memory. An empty key is everything.
CREATE TABLE kv_changes (
  change INTEGER PRIMARY KEY AUTOINCREMENT,
  origin INTEGER NOT NULL,
  wall   INTEGER NOT NULL,
  key    TEXT NOT NULL
) STRICT;

CREATE TABLE entities (
  wall       INTEGER NOT NULL REFERENCES walls,
  name       TEXT NOT NULL,
  kind       TEXT,
  attributes TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  PRIMARY KEY (wall, name)
) STRICT, WITHOUT ROWID;

-- Two axes of time: when it is true in the world, and when the store believed it.
CREATE TABLE facts (
  fact       INTEGER PRIMARY KEY AUTOINCREMENT,
  id         TEXT NOT NULL UNIQUE,
  wall       INTEGER NOT NULL REFERENCES walls,
  subject    TEXT NOT NULL,
  predicate  TEXT NOT NULL,
  object     TEXT NOT NULL,
  valid_at   INTEGER NOT NULL,
  invalid_at INTEGER,
  created_at INTEGER NOT NULL,
  expired_at INTEGER,
  functional INTEGER NOT NULL,
  source     TEXT,
  metadata   TEXT NOT NULL
) STRICT;
CREATE INDEX facts_by_subject ON facts (wall, subject, predicate);
CREATE INDEX facts_by_object ON facts (wall, object, predicate);
