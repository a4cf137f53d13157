-- Which installation this ledger belongs to, and in which database of which cluster it was written.
CREATE TABLE keycard.ledger (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    installation text NOT NULL,
    system_identifier bigint NOT NULL,
    database_oid oid NOT NULL,
    -- The version that a keycard must know at least to work with this ledger. A migration that an
    -- older one would get wrong raises the default and the value, and by that waits for its steps.
    compatible_from integer NOT NULL DEFAULT 1
);

CREATE TABLE keycard.leases (
    id uuid PRIMARY KEY,
    role text NOT NULL,
    requester text NOT NULL,
    username text NOT NULL UNIQUE,
    login_oid oid NOT NULL,
    state text NOT NULL CHECK (state IN ('issuing', 'active', 'revoking', 'dropped', 'closed')),
    generation integer NOT NULL,
    attempt integer NOT NULL,
    held_until timestamptz,
    issued_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    max_expires_at timestamptz NOT NULL,
    ttl_clamped boolean NOT NULL,
    -- Where the secret of each attempt at delivery was put, in their order.
    locators text[] NOT NULL,
    sessions_terminated integer NOT NULL,
    cause text CHECK (cause IN ('expired', 'requested', 'operator', 'missing')),
    revoked_at timestamptz,
    failures integer NOT NULL,
    retry_at timestamptz,
    recheck_at timestamptz,
    -- Why the last attempt failed, for people.
    last_failure text,
    -- When the sweep looks at the lease if nothing else did.
    wake_at timestamptz
);

CREATE INDEX leases_wake ON keycard.leases (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX leases_live ON keycard.leases (requester, role)
    WHERE state IN ('issuing', 'active');

-- Whoever counts the leases of a requester and role holds one of these rows until its own is added.
-- Not an advisory lock: those can be taken by every session of the database.
CREATE TABLE keycard.turns (id bigint PRIMARY KEY);
INSERT INTO keycard.turns SELECT generate_series(0, 63);

-- Every command that was carried out or denied, and the answer that a replay gets again.
CREATE TABLE keycard.requests (
    requester text NOT NULL,
    source text NOT NULL,
    id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('request', 'renew', 'revoke')),
    digest bytea NOT NULL,
    lease uuid,
    correlation_id text,
    traceparent text,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The result event as published, byte for byte.
    answer text,
    answered_at timestamptz,
    published_at timestamptz,
    PRIMARY KEY (requester, source, id)
);

CREATE INDEX requests_open ON keycard.requests (lease) WHERE answer IS NULL;
CREATE INDEX requests_traced ON keycard.requests (lease) WHERE traceparent IS NOT NULL;
CREATE INDEX requests_unpublished ON keycard.requests (answered_at)
    WHERE answer IS NOT NULL AND published_at IS NULL;
CREATE INDEX requests_recorded ON keycard.requests (recorded_at);
