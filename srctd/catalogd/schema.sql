-- The embedded catalogue. A document is stored once, as JSON in the shape of SciCat's v4 API; v3 is a view of it.

CREATE TABLE setting (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
);

CREATE TABLE account (
    id TEXT PRIMARY KEY,
    username TEXT NOT NULL UNIQUE,
    password TEXT NOT NULL,
    groups TEXT NOT NULL,
    created_at TEXT NOT NULL
);

CREATE TABLE dataset (
    id TEXT PRIMARY KEY,
    document TEXT NOT NULL,
    created_at TEXT GENERATED ALWAYS AS (json_extract(document, '$.createdAt')) VIRTUAL
);
CREATE INDEX dataset_by_created_at ON dataset (created_at);

-- `fingerprint`: the same list posted again is the same block, the same picture the same attachment.
CREATE TABLE origdatablock (
    id TEXT PRIMARY KEY,
    dataset_id TEXT NOT NULL REFERENCES dataset (id) ON DELETE CASCADE,
    fingerprint TEXT NOT NULL,
    size INTEGER NOT NULL,
    n_files INTEGER NOT NULL,
    document TEXT NOT NULL,
    UNIQUE (dataset_id, fingerprint)
);

CREATE TABLE attachment (
    id TEXT PRIMARY KEY,
    dataset_id TEXT NOT NULL REFERENCES dataset (id) ON DELETE CASCADE,
    fingerprint TEXT NOT NULL,
    document TEXT NOT NULL,
    UNIQUE (dataset_id, fingerprint)
);
