"""From the json of every run to the tables and pictures of docs/results.md."""
