"""A comparison to a page, tables and files. It never imports Keras."""
