"""Jobs: a YAML file in, a result folder out."""
