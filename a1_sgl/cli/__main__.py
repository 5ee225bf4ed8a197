"""``python -m a1_sgl.cli``."""

from a1_sgl.cli import main

main()
