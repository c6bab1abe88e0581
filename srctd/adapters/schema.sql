-- The journal: what is finished, and what is still to be posted. Queues, leases and listings are never in here.
-- Times are UTC timestamps in seconds. 0x73726374 is 'srct'.

BEGIN IMMEDIATE;

PRAGMA application_id = 0x73726374;
PRAGMA user_version = 3;

CREATE TABLE scans (
    id           TEXT PRIMARY KEY,
    path         TEXT NOT NULL,                 -- canonical path of the file or folder that is opened
    root         TEXT NOT NULL,                 -- watched root, empty if submitted by hand
    revision     INTEGER NOT NULL,
    task         TEXT NOT NULL UNIQUE,          -- name of the task directory
    member       INTEGER NOT NULL,              -- of the scans that the files hold
    members      INTEGER NOT NULL,
    leader       TEXT NOT NULL,                 -- the first member, whose copy serves all; empty: this one itself
    series       TEXT NOT NULL,                 -- JSON
    content      TEXT NOT NULL,                 -- digest that is the same wherever the files lie
    source       TEXT NOT NULL,                 -- JSON, the files in short
    manifest     TEXT NOT NULL,                 -- JSON, every file; long, and read only where it is needed
    completed_at REAL NOT NULL,
    verdict      TEXT NOT NULL,                 -- JSON, with its evidence
    seen_at      TEXT NOT NULL DEFAULT '{}',    -- JSON
    superseded   INTEGER NOT NULL DEFAULT 0,
    overrides    TEXT NOT NULL DEFAULT '{}',    -- JSON
    take_incomplete INTEGER NOT NULL DEFAULT 0, -- an operator wants what is there
    run          INTEGER NOT NULL DEFAULT 1,    -- counts reconstructions that were published
    removal_begun_at REAL,                      -- since when retention removes the source
    source_removed_at REAL,                     -- when it had removed it
    source_kept  TEXT NOT NULL DEFAULT '',      -- why it must not
    UNIQUE (path, revision, member)
) STRICT;

-- Steps that wait or run have no row: after a crash they are done again.
CREATE TABLE steps (
    scan        TEXT NOT NULL REFERENCES scans (id),
    step        TEXT NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('done', 'retrying', 'held')),
    attempts    INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    cause       TEXT NOT NULL,                  -- name of the error
    needs_bytes INTEGER NOT NULL,               -- what must be free on shared storage before another try
    retry_at    REAL,
    result      TEXT NOT NULL,                  -- JSON
    seconds     REAL NOT NULL,
    finished_at REAL NOT NULL,                  -- when the step came to this status; moves when the clock is set
    PRIMARY KEY (scan, step)
) STRICT, WITHOUT ROWID;

-- What acquisitions told of themselves ("the scan at this path has ended"), until the scan is judged.
CREATE TABLE messages (
    path TEXT PRIMARY KEY,
    body TEXT NOT NULL,                         -- JSON
    at   REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    scan        TEXT NOT NULL REFERENCES scans (id),
    key         TEXT NOT NULL,
    position    INTEGER NOT NULL,               -- order of posting within the scan
    kind        TEXT NOT NULL,
    dataset_pid TEXT NOT NULL,
    body        BLOB NOT NULL,                  -- JSON
    remote_id   TEXT,                           -- the catalogue's name for it, once posted
    posted_at   REAL,
    PRIMARY KEY (scan, key)
) STRICT;

CREATE INDEX outbox_waiting ON outbox (scan) WHERE posted_at IS NULL;

-- What happened, in order. Rows are only ever added.
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    at       REAL NOT NULL,
    scan     TEXT NOT NULL,
    topic    TEXT NOT NULL,
    body     TEXT NOT NULL                      -- JSON
) STRICT;

COMMIT;
