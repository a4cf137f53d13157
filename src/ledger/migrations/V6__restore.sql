-- When the server was started under which delivered leases were last compared with the secret store:
-- another start may mean a restore. NULL: that is still to be done.
-- And since when so many of them lack their secret that the store is taken to have lost it.
ALTER TABLE keycard.ledger
    ADD COLUMN server_started_at timestamptz,
    ADD COLUMN secrets_lost_at timestamptz;
