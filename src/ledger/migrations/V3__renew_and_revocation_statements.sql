-- How the lease's login is renewed and revoked, as its role said when the login was created: one text
-- with several statements, or an array of single ones. NULL: keycard's own way.
ALTER TABLE keycard.leases
    ADD COLUMN renew_statements jsonb
        CHECK (jsonb_typeof(renew_statements) IN ('array', 'string')),
    ADD COLUMN revocation_statements jsonb
        CHECK (jsonb_typeof(revocation_statements) IN ('array', 'string'));
