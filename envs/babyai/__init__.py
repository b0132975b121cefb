"""BabyAI levels of MiniGrid as a text environment: see README.md in this folder."""

import os

# pygame, which minigrid imports, greets on standard output, where results are printed.
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
