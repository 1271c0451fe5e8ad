"""Tasks of this repository alone: they may set a machine up, which the installed package never does."""
