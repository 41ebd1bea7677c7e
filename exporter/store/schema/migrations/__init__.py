"""The schema's revisions, in alembic's form; ``exporter.store.schema.migrate`` runs them. Nothing else imports them."""
