-- Made where it is missing, since files of every format were written before it was there.
CREATE TABLE IF NOT EXISTS tallies (
  name       TEXT NOT NULL,
  field      TEXT NOT NULL,
  amount     REAL NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (name, field)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tallies_by_expiry ON tallies (expires_at);
