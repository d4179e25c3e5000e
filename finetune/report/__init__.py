"""From a comparison to a page, tables and files. Never imports Keras."""
