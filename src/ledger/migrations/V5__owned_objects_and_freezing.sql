-- What becomes of what the lease's login owns, as its role said when the login was created: it
-- belongs to another role from then on, or is dropped; else it stays, and the login with it.
ALTER TABLE keycard.leases
    ADD COLUMN reassign_owned_to text,
    ADD COLUMN drop_owned boolean NOT NULL DEFAULT false,
    ADD CHECK (reassign_owned_to IS NULL OR NOT drop_owned);

-- Since when an operator has nothing revoked in this database, and why.
ALTER TABLE keycard.ledger
    ADD COLUMN frozen_at timestamptz,
    ADD COLUMN frozen_reason text,
    -- Who does not know of freezing would revoke.
    ALTER COLUMN compatible_from SET DEFAULT 5;
UPDATE keycard.ledger SET compatible_from = 5;
