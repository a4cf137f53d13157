-- One row for each decision on a credential, written in the decision's own transaction.
CREATE TABLE keycard.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The database's clock, as the decision read it.
    at timestamptz NOT NULL,
    action text NOT NULL CHECK (action IN
        ('created', 'issued', 'renewed', 'disabled', 'stuck', 'revoked', 'closed', 'missing',
         'denied', 'adopted', 'forgotten', 'frozen', 'thawed')),
    -- What a denied command named need not exist.
    lease_id text,
    role text,
    -- Whose credential it is.
    requester text,
    username text,
    generation integer,
    expires_at timestamptz,
    -- Why the lease ends.
    cause text,
    -- Why a command was denied.
    code text,
    -- Why, for people.
    reason text NOT NULL,
    -- The command that it was decided on, if one was.
    asked_by text,
    request_source text,
    request_id text
);

CREATE INDEX audit_at ON keycard.audit (at);
CREATE INDEX audit_lease ON keycard.audit (lease_id, id);
CREATE INDEX audit_role ON keycard.audit (role, id);
CREATE INDEX audit_requester ON keycard.audit (requester, id);
CREATE INDEX audit_asked_by ON keycard.audit (asked_by, id);
CREATE INDEX audit_username ON keycard.audit (username, id);

-- The sweep says how long rows are kept, for its own transaction only; nobody else deletes.
CREATE FUNCTION keycard.keep_audit() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.at < clock_timestamp() - make_interval(
            secs => nullif(current_setting('keycard.keep_audit_seconds', true), '')::float8)
        THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'keycard.audit is append-only: % is refused', TG_OP
        USING ERRCODE = 'insufficient_privilege';
END
$$;
REVOKE ALL ON FUNCTION keycard.keep_audit() FROM PUBLIC;

CREATE TRIGGER keep_rows BEFORE DELETE ON keycard.audit
    FOR EACH ROW EXECUTE FUNCTION keycard.keep_audit();
CREATE TRIGGER keep_content BEFORE UPDATE OR TRUNCATE ON keycard.audit
    FOR EACH STATEMENT EXECUTE FUNCTION keycard.keep_audit();

-- For the removal of leases that ended long ago: until `max_expires_at` an expiry event may wake one.
CREATE INDEX leases_closed ON keycard.leases (greatest(revoked_at, max_expires_at))
    WHERE state = 'closed';
-- For the counts of leases whose login exists.
CREATE INDEX leases_open ON keycard.leases (expires_at)
    WHERE state IN ('issuing', 'active', 'revoking');
