"""Configs: objects to YAML and back. registrable.py knows tags, schema.py builds, yaml.py reads and writes."""
