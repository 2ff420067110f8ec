"""Configs: objects to YAML and back. registrable.py knows tags, schema.py builds, link.py refers, yaml.py reads and writes."""
