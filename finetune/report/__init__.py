"""From a comparison to a page, tables and files. Never imports Keras."""

import logging

# On its import, Matplotlib tells where it keeps its fonts.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
