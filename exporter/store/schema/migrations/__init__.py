"""The schema's revisions, in alembic's form; ``exporter.store.migrate`` runs them. Nothing else imports them."""
