-- Format 1. Times are microseconds since 1970, UTC.
-- Every table of what belongs to somebody has its tenant, so that row-level security needs no join.
CREATE TABLE format (
  product text    NOT NULL,
  format  integer NOT NULL
);

-- A wall is one pair of tenant and user; every row belongs to one. What a word is worth hangs on how many records and words
-- there are in its wall.
CREATE TABLE walls (
  wall    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  key     text   NOT NULL UNIQUE,
  tenant  text,
  "user"  text,
  records bigint NOT NULL DEFAULT 0,
  words   bigint NOT NULL DEFAULT 0
);

CREATE TABLE models (
  model      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name       text    NOT NULL UNIQUE,
  dimensions integer NOT NULL
);

-- `facts` are hashes of the names and values in `metadata`, for exact filters. `words` are stems, each with its wall
-- (12wreport), so that a word of one wall is no word of another; `length` is how many words there are.
CREATE TABLE records (
  seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  wall       bigint NOT NULL REFERENCES walls,
  tenant     text,
  id         text   NOT NULL COLLATE "C",
  version    bigint NOT NULL,
  session    text   COLLATE "C",
  agent      text   COLLATE "C",
  content    text   NOT NULL,
  kind       text   NOT NULL COLLATE "C",
  category   text   COLLATE "C",
  tags       text[] NOT NULL,
  metadata   text   NOT NULL,
  facts      bytea[] NOT NULL,
  summary    text,
  source     text   COLLATE "C",
  role       text,
  importance double precision NOT NULL,
  priority   text   NOT NULL COLLATE "C",
  archived   boolean NOT NULL,
  created_at bigint NOT NULL,
  updated_at bigint NOT NULL,
  expires_at bigint,
  hash       bytea  NOT NULL,
  length     integer NOT NULL,
  words      tsvector NOT NULL,
  model      integer REFERENCES models,
  UNIQUE (wall, id)
);
CREATE INDEX records_by_wall ON records (wall, seq);
CREATE INDEX records_by_session ON records (wall, session, seq) WHERE session IS NOT NULL;
CREATE INDEX records_by_hash ON records (wall, hash);
CREATE INDEX records_by_expiry ON records (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX records_by_model ON records (wall, model) WHERE NOT archived;
-- Without a list of pending entries: a search would walk through it.
CREATE INDEX records_by_words ON records USING gin (words) WITH (fastupdate = off);

-- Former states, as JSON of the record.
CREATE TABLE versions (
  seq     bigint NOT NULL REFERENCES records ON DELETE CASCADE,
  version bigint NOT NULL,
  tenant  text,
  body    text   NOT NULL,
  PRIMARY KEY (seq, version)
);

-- Values of length one. Each model has an index of its own, made with its first vector.
CREATE TABLE vectors (
  seq    bigint  PRIMARY KEY REFERENCES records ON DELETE CASCADE,
  model  integer NOT NULL REFERENCES models,
  tenant text,
  data   {vector} NOT NULL
);

CREATE TABLE kv (
  wall        bigint NOT NULL REFERENCES walls,
  tenant      text,
  key         text   NOT NULL COLLATE "C",
  value       text   NOT NULL,
  tags        text[] NOT NULL,
  expires_at  bigint,
  stale_until bigint,
  PRIMARY KEY (wall, key)
);
CREATE INDEX kv_by_expiry ON kv (stale_until) WHERE stale_until IS NOT NULL;
CREATE INDEX kv_by_tag ON kv USING gin (tags) WHERE tags <> '{}';

CREATE TABLE entities (
  wall       bigint NOT NULL REFERENCES walls,
  tenant     text,
  name       text   NOT NULL COLLATE "C",
  kind       text,
  attributes text   NOT NULL,
  created_at bigint NOT NULL,
  updated_at bigint NOT NULL,
  PRIMARY KEY (wall, name)
);

-- Two axes of time: when it is true in the world, and when the store believed it.
CREATE TABLE facts (
  fact       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id         text   NOT NULL UNIQUE COLLATE "C",
  wall       bigint NOT NULL REFERENCES walls,
  tenant     text,
  subject    text   NOT NULL COLLATE "C",
  predicate  text   NOT NULL COLLATE "C",
  object     text   NOT NULL COLLATE "C",
  valid_at   bigint NOT NULL,
  invalid_at bigint,
  created_at bigint NOT NULL,
  expired_at bigint,
  functional boolean NOT NULL,
  source     text,
  metadata   text   NOT NULL
);
CREATE INDEX facts_by_subject ON facts (wall, subject);
CREATE INDEX facts_by_object ON facts (wall, object);

CREATE TABLE checkpoint_threads (
  thread bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  wall   bigint NOT NULL REFERENCES walls,
  tenant text,
  name   text   NOT NULL COLLATE "C",
  UNIQUE (wall, name)
);

-- `channels` is JSON: by name, the version, the encoding, and the number of the value.
CREATE TABLE checkpoints (
  checkpoint bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  thread     bigint NOT NULL REFERENCES checkpoint_threads ON DELETE CASCADE,
  tenant     text,
  namespace  text   NOT NULL COLLATE "C",
  id         text   NOT NULL COLLATE "C",
  parent     text   COLLATE "C",
  run        text   COLLATE "C",
  encoding   text   NOT NULL,
  body       bytea  NOT NULL,
  metadata   text   NOT NULL,
  channels   text   NOT NULL,
  deltas     text   NOT NULL,
  created_at bigint NOT NULL,
  UNIQUE (thread, namespace, id)
);
CREATE INDEX checkpoints_by_run ON checkpoints (run) WHERE run IS NOT NULL;

-- Values are counted inside their thread, so that a thread is copied and deleted without looking at another.
-- The first byte of packed data says how: 0 as it is, 1 by zstd, 2 a list of the numbers of its runs.
CREATE TABLE checkpoint_values (
  thread bigint NOT NULL REFERENCES checkpoint_threads ON DELETE CASCADE,
  value  bigint NOT NULL,
  tenant text,
  hash   bytea  NOT NULL,
  data   bytea  NOT NULL,
  PRIMARY KEY (thread, value),
  UNIQUE (thread, hash)
);

-- A write may come before its checkpoint.
CREATE TABLE checkpoint_writes (
  thread    bigint NOT NULL REFERENCES checkpoint_threads ON DELETE CASCADE,
  tenant    text,
  namespace text   NOT NULL COLLATE "C",
  id        text   NOT NULL COLLATE "C",
  task      text   NOT NULL COLLATE "C",
  idx       bigint NOT NULL,
  path      text   NOT NULL COLLATE "C",
  channel   text   NOT NULL,
  encoding  text   NOT NULL,
  data      bytea  NOT NULL,
  PRIMARY KEY (thread, namespace, id, task, idx)
);

CREATE TABLE leases (
  name   text   PRIMARY KEY,
  holder text   NOT NULL,
  until  bigint NOT NULL
);
