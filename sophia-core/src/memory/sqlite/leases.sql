-- Who does something alone, and until when, in microseconds since 1970.
CREATE TABLE IF NOT EXISTS leases (
  name   TEXT PRIMARY KEY,
  holder TEXT NOT NULL,
  until  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Tells without reading a vector how many there are of a model.
CREATE INDEX IF NOT EXISTS vectors_by_model ON vectors (model);
