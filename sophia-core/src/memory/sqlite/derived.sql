-- What is derived from the rest and can be made anew at any time.
-- The words of records, for full-text search.
-- They are stems, each with its wall (12wreport), so that a query never walks through the words of others and words are as
-- rare or frequent as they are within the wall. FTS5 only has to find them: where they stand and how often is read off the
-- few records that matter.
CREATE VIRTUAL TABLE record_words USING fts5 (words, content = '', detail = none, tokenize = 'ascii');
-- Words of an erased record leave the index at once.
INSERT INTO record_words (record_words, rank) VALUES ('secure-delete', 1);

-- Which file beside this one holds a block of a wall's vectors. A file of another generation is not read.
CREATE TABLE block_files (
  wall       INTEGER NOT NULL,
  model      INTEGER NOT NULL,
  generation BLOB NOT NULL,
  PRIMARY KEY (wall, model)
) STRICT, WITHOUT ROWID;
