"""Building blocks of the command line: commands, shared options, and commands that are configured with Hydra."""
