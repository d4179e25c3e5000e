"""The command ``onepass``: every step from photos to a comparison, without a checkout or make."""
