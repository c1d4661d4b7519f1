"""Pruning while a Trainer trains: masks, removed channels, penalties, and a teacher. Import from the modules."""
