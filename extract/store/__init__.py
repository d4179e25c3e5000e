"""Bytes on disk: shards, their index, the published features file, maintenance."""
