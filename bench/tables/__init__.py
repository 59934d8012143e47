"""Tables, charts and pages of records."""
