"""Files on disk: atomic writes, image headers, YAML, zip archives, videos."""
