-- The queue, for installations without a broker: commands and wake-ups on their way to a worker,
-- and results on their way to services. Services use the functions, and never see the tables.

CREATE TABLE keycard.messages (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Where it is handed out; a deferred command comes back in 'expiry' and keeps its lane.
    stream text NOT NULL CHECK (stream IN ('requests', 'leases', 'expiry')),
    lane text NOT NULL CHECK (lane IN ('requests', 'leases', 'expiry')),
    -- The session_user that sent it. Without one it is keycard's own, or for the reason in `nobody`
    -- nobody's.
    sender text,
    nobody text CHECK (nobody IS NULL OR sender IS NULL),
    body bytea NOT NULL,
    correlation_id text,
    deferrals integer NOT NULL DEFAULT 0,
    -- Times it was handed out without being acknowledged.
    deliveries integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The session (keycard.sessions) that has it; it is free again once that session has ended.
    holder text
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

CREATE INDEX messages_free ON keycard.messages (stream, due_at, id) WHERE holder IS NULL;
CREATE INDEX messages_held ON keycard.messages (stream, holder) WHERE holder IS NOT NULL;
-- How many commands somebody has waiting.
CREATE INDEX messages_sender ON keycard.messages (sender) WHERE sender IS NOT NULL;

-- Sessions of keycard's own user, by an id that no other session ever has: nobody else can keep a
-- message by it, as they could by an advisory lock.
CREATE VIEW keycard.sessions AS
SELECT pid, to_hex(pid) || '.' || to_hex((extract(epoch FROM backend_start) * 1000000)::bigint) AS id
FROM pg_catalog.pg_stat_activity
WHERE backend_start IS NOT NULL;

CREATE TABLE keycard.results (
    position bigint PRIMARY KEY,
    requester text NOT NULL,
    event text NOT NULL,
    correlation_id text,
    published_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX results_requester ON keycard.results (requester, position);

CREATE SEQUENCE keycard.results_position;

-- Whoever publishes locks this row before taking a position, and so waits until the one before has
-- committed: positions appear in their order, and a reader that goes on after the last one it saw
-- misses none. A lock that anybody could take, as an advisory one, would let anybody stop results.
CREATE TABLE keycard.publishing (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row));

INSERT INTO keycard.publishing DEFAULT VALUES;

CREATE TABLE keycard.dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane text NOT NULL CHECK (lane IN ('requests', 'leases', 'expiry')),
    sender text,
    nobody text CHECK (nobody IS NULL OR sender IS NULL),
    body bytea NOT NULL,
    correlation_id text,
    reason text NOT NULL,
    died_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Whom a worker's configuration names, and when one last did. Workers may differ while it is being
-- changed: what one of them grants, another takes back only when nobody has named it for a while.
CREATE TABLE keycard.callers (
    name text NOT NULL,
    is_operator boolean NOT NULL,
    named_at timestamptz NOT NULL,
    PRIMARY KEY (name, is_operator)
);

-- The functions below run as their owner, keycard's own user. The worker grants them to the
-- requesters and operators of its configuration, and to nobody else. session_user is whom Postgres
-- has authenticated: SET ROLE does not change it.

CREATE FUNCTION keycard.caller() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- It could ask for its own successor.
    IF EXISTS (SELECT FROM keycard.leases WHERE username = session_user::text) THEN
        RAISE EXCEPTION 'a login that keycard has issued cannot ask keycard for anything'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN session_user::text;
END $$;

-- Sends a command. Its answer will be among the results after the position returned.
CREATE FUNCTION keycard.send(lane text, event bytea, correlation_id text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller text := keycard.caller();
    after bigint;
BEGIN
    IF lane IS NULL OR lane NOT IN ('requests', 'leases') THEN
        RAISE EXCEPTION 'there is no such lane; write ''requests'' or ''leases'''
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF event IS NULL THEN
        RAISE EXCEPTION 'the event is null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- More than that nobody would read: it would become a dead letter, and its sender hear nothing.
    IF octet_length(event) > 65536 THEN
        RAISE EXCEPTION 'the event takes more than 64 KiB' USING ERRCODE = 'program_limit_exceeded';
    END IF;
    IF octet_length(correlation_id) > 255 THEN
        RAISE EXCEPTION 'the correlation id takes more than 255 bytes'
            USING ERRCODE = 'program_limit_exceeded';
    END IF;
    -- Without a limit one sender could fill the disk of everybody. It counts no further than that.
    IF (SELECT count(*) FROM (
            SELECT FROM keycard.messages m WHERE m.sender = caller LIMIT 10000) waiting) = 10000
    THEN
        RAISE EXCEPTION '10000 commands of yours are waiting already; send more when they are answered'
            USING ERRCODE = 'configuration_limit_exceeded';
    END IF;
    SELECT CASE WHEN is_called THEN last_value ELSE 0 END INTO STRICT after
    FROM keycard.results_position;
    INSERT INTO keycard.messages (stream, lane, sender, body, correlation_id)
    VALUES (lane, lane, caller, event, correlation_id);
    PERFORM pg_notify('keycard_' || lane, '');
    RETURN after;
END $$;

CREATE FUNCTION keycard.send(lane text, event text, correlation_id text DEFAULT NULL) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT keycard.send(lane, convert_to(event, 'UTF8'), correlation_id)
$$;

-- The caller's own results after a position, at most 1,000 of them, in their order. They stay for a
-- day.
CREATE FUNCTION keycard.results(after bigint)
RETURNS TABLE ("position" bigint, event text, correlation_id text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.position, r.event, r.correlation_id FROM keycard.results r
    WHERE r.requester = session_user::text AND r.position > after
    ORDER BY r.position LIMIT 1000
$$;

-- For operators: what could not be processed, oldest first.
CREATE FUNCTION keycard.dead_letters(letters_max integer DEFAULT 100)
RETURNS TABLE (id bigint, lane text, sender text, nobody text, reason text, died_at timestamptz,
               event bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM keycard.caller();
    RETURN QUERY
        SELECT d.id, d.lane, d.sender, d.nobody, d.reason, d.died_at, d.body
        FROM keycard.dead_letters d ORDER BY d.id LIMIT letters_max;
END $$;

-- For operators: hands a dead letter over again, as from its original sender. False when there is
-- none of this id.
CREATE FUNCTION keycard.requeue_dead_letter(letter bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    requeued text;
BEGIN
    PERFORM keycard.caller();
    WITH back AS (DELETE FROM keycard.dead_letters WHERE id = letter RETURNING *)
    INSERT INTO keycard.messages (stream, lane, sender, nobody, body, correlation_id)
    SELECT lane, lane, sender, nobody, body, correlation_id FROM back
    RETURNING stream INTO requeued;
    PERFORM pg_notify('keycard_' || requeued, '') WHERE requeued IS NOT NULL;
    RETURN requeued IS NOT NULL;
END $$;

-- For operators: removes a dead letter for good. False when there is none of this id.
CREATE FUNCTION keycard.discard_dead_letter(letter bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM keycard.caller();
    DELETE FROM keycard.dead_letters WHERE id = letter;
    RETURN FOUND;
END $$;

-- Functions begin with EXECUTE for everybody.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA keycard FROM PUBLIC;
