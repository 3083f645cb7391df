"""Building blocks of the command line: commands, shared options, and commands configured with Hydra."""
