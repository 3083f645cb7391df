"""Tables and pictures of a page of results, from the json file of every run."""
