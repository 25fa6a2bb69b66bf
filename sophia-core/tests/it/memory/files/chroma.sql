-- Made by chroma.py. Other tables, which these refer to, are left out.
PRAGMA foreign_keys = OFF;
CREATE TABLE "collections" (
    id TEXT PRIMARY KEY, -- unique globally
    name TEXT NOT NULL, -- unique per database
    dimension INTEGER,
    database_id TEXT NOT NULL REFERENCES databases(id) ON DELETE CASCADE, config_json_str TEXT, schema_str TEXT,
    UNIQUE (name, database_id)
);
INSERT INTO collections VALUES ('86fe1606-b2eb-4a5d-8562-74877ebb1129', 'notes', 3, '00000000-0000-0000-0000-000000000000', '{}', '{"defaults":{"string":{"fts_index":{"enabled":false,"config":{}},"string_inverted_index":{"enabled":true,"config":{}}},"float_list":{"vector_index":{"enabled":false,"config":{"space":"l2","embedding_function":{"type":"known","name":"default","config":{}},"hnsw":{"ef_construction":100,"max_neighbors":16,"ef_search":100,"num_threads":2,"batch_size":100,"sync_threshold":1000,"resize_factor":1.2}}}},"sparse_vector":{"sparse_vector_index":{"enabled":false,"config":{"embedding_function":{"type":"unknown"},"bm25":false}}},"int":{"int_inverted_index":{"enabled":true,"config":{}}},"float":{"float_inverted_index":{"enabled":true,"config":{}}},"bool":{"bool_inverted_index":{"enabled":true,"config":{}}}},"keys":{"#embedding":{"float_list":{"vector_index":{"enabled":true,"config":{"space":"l2","embedding_function":{"type":"known","name":"default","config":{}},"source_key":"#document","hnsw":{"ef_construction":100,"max_neighbors":16,"ef_search":100,"num_threads":2,"batch_size":100,"sync_threshold":1000,"resize_factor":1.2}}}}},"year":{"int":{"int_inverted_index":{"enabled":true,"config":{}}}},"#document":{"string":{"fts_index":{"enabled":true,"config":{}},"string_inverted_index":{"enabled":false,"config":{}}}},"done":{"bool":{"bool_inverted_index":{"enabled":true,"config":{}}}},"score":{"float":{"float_inverted_index":{"enabled":true,"config":{}}}},"labels":{"string":{"fts_index":{"enabled":false,"config":{}},"string_inverted_index":{"enabled":true,"config":{}}}},"author":{"string":{"fts_index":{"enabled":false,"config":{}},"string_inverted_index":{"enabled":true,"config":{}}}}}}');
INSERT INTO collections VALUES ('5cc80753-865d-43c5-a2ea-c4f27c9f8fae', 'other', 3, '00000000-0000-0000-0000-000000000000', '{}', '{"defaults":{"string":{"fts_index":{"enabled":false,"config":{}},"string_inverted_index":{"enabled":true,"config":{}}},"float_list":{"vector_index":{"enabled":false,"config":{"space":"l2","embedding_function":{"type":"known","name":"default","config":{}},"hnsw":{"ef_construction":100,"max_neighbors":16,"ef_search":100,"num_threads":2,"batch_size":100,"sync_threshold":1000,"resize_factor":1.2}}}},"sparse_vector":{"sparse_vector_index":{"enabled":false,"config":{"embedding_function":{"type":"unknown"},"bm25":false}}},"int":{"int_inverted_index":{"enabled":true,"config":{}}},"float":{"float_inverted_index":{"enabled":true,"config":{}}},"bool":{"bool_inverted_index":{"enabled":true,"config":{}}}},"keys":{"#document":{"string":{"fts_index":{"enabled":true,"config":{}},"string_inverted_index":{"enabled":false,"config":{}}}},"#embedding":{"float_list":{"vector_index":{"enabled":true,"config":{"space":"l2","embedding_function":{"type":"known","name":"default","config":{}},"source_key":"#document","hnsw":{"ef_construction":100,"max_neighbors":16,"ef_search":100,"num_threads":2,"batch_size":100,"sync_threshold":1000,"resize_factor":1.2}}}}}}}');
CREATE TABLE "segments" (
    id TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    scope TEXT NOT NULL,
    collection TEXT REFERENCES collection(id) NOT NULL
);
INSERT INTO segments VALUES ('30cba6e6-acf5-4c9f-9419-c974b2eecbb5', 'urn:chroma:segment/vector/hnsw-local-persisted', 'VECTOR', '86fe1606-b2eb-4a5d-8562-74877ebb1129');
INSERT INTO segments VALUES ('71a120d5-5f03-46bc-a293-f6a592f0b2f8', 'urn:chroma:segment/metadata/sqlite', 'METADATA', '86fe1606-b2eb-4a5d-8562-74877ebb1129');
INSERT INTO segments VALUES ('bc87edec-0f6b-471d-a8d5-5132914bd6c6', 'urn:chroma:segment/vector/hnsw-local-persisted', 'VECTOR', '5cc80753-865d-43c5-a2ea-c4f27c9f8fae');
INSERT INTO segments VALUES ('5a535c8e-426b-4c7c-b1f4-509cab2683f3', 'urn:chroma:segment/metadata/sqlite', 'METADATA', '5cc80753-865d-43c5-a2ea-c4f27c9f8fae');
CREATE TABLE embeddings (
    id INTEGER PRIMARY KEY,
    segment_id TEXT NOT NULL,
    embedding_id TEXT NOT NULL,
    seq_id BLOB NOT NULL,
    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (segment_id, embedding_id)
);
INSERT INTO embeddings VALUES (1, '71a120d5-5f03-46bc-a293-f6a592f0b2f8', 'pdf', 1, '2026-11-29 02:13:29');
INSERT INTO embeddings VALUES (2, '71a120d5-5f03-46bc-a293-f6a592f0b2f8', 'standup', 5, '2026-11-29 02:13:29');
INSERT INTO embeddings VALUES (4, '71a120d5-5f03-46bc-a293-f6a592f0b2f8', 'vector only', 4, '2026-11-29 02:13:29');
INSERT INTO embeddings VALUES (5, '5a535c8e-426b-4c7c-b1f4-509cab2683f3', 'pdf', 7, '2026-11-29 02:13:29');
CREATE TABLE embedding_metadata (
    id INTEGER REFERENCES embeddings(id),
    key TEXT NOT NULL,
    string_value TEXT,
    int_value INTEGER,
    float_value REAL, bool_value INTEGER,
    PRIMARY KEY (id, key)
);
INSERT INTO embedding_metadata VALUES (1, 'chroma:document', 'Ada wants the quarterly report as a PDF.', NULL, NULL, NULL);
INSERT INTO embedding_metadata VALUES (1, 'year', NULL, 2024, NULL, NULL);
INSERT INTO embedding_metadata VALUES (1, 'score', NULL, NULL, 0.5, NULL);
INSERT INTO embedding_metadata VALUES (1, 'done', NULL, NULL, NULL, 1);
INSERT INTO embedding_metadata VALUES (1, 'author', 'ada', NULL, NULL, NULL);
INSERT INTO embedding_metadata VALUES (2, 'author', 'bob', NULL, NULL, NULL);
INSERT INTO embedding_metadata VALUES (2, 'chroma:document', 'The standup is at half past ten.', NULL, NULL, NULL);
INSERT INTO embedding_metadata VALUES (4, 'author', 'ada', NULL, NULL, NULL);
INSERT INTO embedding_metadata VALUES (5, 'chroma:document', 'The same id in another collection.', NULL, NULL, NULL);
CREATE TABLE embedding_metadata_array (
    id INTEGER NOT NULL REFERENCES embeddings(id),
    key TEXT NOT NULL,
    string_value TEXT,
    int_value INTEGER,
    float_value REAL,
    bool_value INTEGER
);
INSERT INTO embedding_metadata_array VALUES (1, 'labels', 'report', NULL, NULL, NULL);
INSERT INTO embedding_metadata_array VALUES (1, 'labels', 'pdf', NULL, NULL, NULL);
CREATE TABLE embeddings_queue (
    seq_id INTEGER PRIMARY KEY,
    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    operation INTEGER NOT NULL,
    topic TEXT NOT NULL,
    id TEXT NOT NULL,
    vector BLOB,
    encoding TEXT,
    metadata TEXT
);
INSERT INTO embeddings_queue VALUES (1, '2026-11-29 02:13:29', 0, 'persistent://default/default/86fe1606-b2eb-4a5d-8562-74877ebb1129', 'pdf', X'0000803F000000000000003F', 'FLOAT32', '{"labels":["report","pdf"],"done":true,"chroma:document":"Ada wants the quarterly report as a PDF.","score":0.5,"author":"ada","year":2024}');
INSERT INTO embeddings_queue VALUES (2, '2026-11-29 02:13:29', 0, 'persistent://default/default/86fe1606-b2eb-4a5d-8562-74877ebb1129', 'standup', X'000000000000803F0000803E', 'FLOAT32', '{"author":"bob","chroma:document":"The standup is at ten."}');
INSERT INTO embeddings_queue VALUES (3, '2026-11-29 02:13:29', 0, 'persistent://default/default/86fe1606-b2eb-4a5d-8562-74877ebb1129', 'gone', X'0000803E0000003F0000403F', 'FLOAT32', '{"chroma:document":"Zürich – 東京"}');
INSERT INTO embeddings_queue VALUES (4, '2026-11-29 02:13:29', 0, 'persistent://default/default/86fe1606-b2eb-4a5d-8562-74877ebb1129', 'vector only', X'0000003F0000003F0000003F', 'FLOAT32', '{"author":"ada"}');
INSERT INTO embeddings_queue VALUES (5, '2026-11-29 02:13:29', 1, 'persistent://default/default/86fe1606-b2eb-4a5d-8562-74877ebb1129', 'standup', X'000000000000003F0000803E', 'FLOAT32', '{"chroma:document":"The standup is at half past ten."}');
INSERT INTO embeddings_queue VALUES (6, '2026-11-29 02:13:29', 3, 'persistent://default/default/86fe1606-b2eb-4a5d-8562-74877ebb1129', 'gone', NULL, NULL, '{}');
INSERT INTO embeddings_queue VALUES (7, '2026-11-29 02:13:29', 0, 'persistent://default/default/5cc80753-865d-43c5-a2ea-c4f27c9f8fae', 'pdf', X'0000003F0000003F00000000', 'FLOAT32', '{"chroma:document":"The same id in another collection."}');
