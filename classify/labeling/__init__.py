"""Label photos one after the other: the head that is refitted, and what is asked next."""
